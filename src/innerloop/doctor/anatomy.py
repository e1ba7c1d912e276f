"""What can be said about a model by looking at it, without running it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ..call import policy as norms
from ..call.model import ModelCall
from .report import Row
from .trace import layer_label


def wrapper_rows(model: nn.Module) -> list[Row]:
    """Is it a plain module, or one that was compiled, scripted or wrapped for training?"""
    for name, module in model.named_modules():
        path = f"model.{name}" if name else "model"
        if isinstance(module, torch._dynamo.OptimizedModule):
            return [_compiled(name, module, f"use the original module, `{path}._orig_mod`")]
        if getattr(module, "_compiled_call_impl", None) is not None:
            return [_compiled(name, module, f"leave out `{path}.compile()`")]
        if isinstance(module, torch.jit.ScriptModule):
            return [
                Row(
                    "module",
                    False,
                    layer_label(name, module),
                    "a scripted module cannot be called with other weights",
                    "use the module that was scripted",
                )
            ]
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            return [
                Row(
                    "module",
                    False,
                    layer_label(name, module),
                    "this wrapper does not synchronise higher-order gradients",
                    f"use `{path}.module`; innerloop averages meta-gradients itself",
                )
            ]
    return []


def module_rows(model: nn.Module) -> list[Row]:
    """Can it be called with other weights?"""
    refused = _refused(model)
    if refused is not None:
        return [refused]
    return [Row("module", True, "", f"{type(model).__name__}, {_size(model)}")]


def parameter_rows(model: nn.Module) -> list[Row]:
    """Which parameters there are: trainable, frozen, shared, of which type and device."""
    params = dict(model.named_parameters())
    rows = []
    for name, p in params.items():
        if p.requires_grad and not (p.is_floating_point() or p.is_complex()):
            rows.append(Row("parameters", False, name, f"{p.dtype} has no gradient", "use floats"))
    kinds = {p.dtype for p in params.values()}
    low = [k for k, p in params.items() if p.dtype in (torch.float16, torch.bfloat16)]
    if low:
        advice = "keep the weights in float32, `model.float()`, and cast inside forward"
        detail = f"{params[low[0]].dtype} loses the small steps of the inner loop"
        rows.append(Row("parameters", True, low[0], detail, advice))
    elif len(kinds) > 1:
        names = ", ".join(sorted(str(k).removeprefix("torch.") for k in kinds))
        odd = next(k for k, p in params.items() if p.dtype != next(iter(params.values())).dtype)
        rows.append(Row("parameters", True, odd, f"mixed types: {names}", "`model.float()`"))
    devices = sorted({str(p.device) for p in params.values()})
    if len(devices) > 1:
        odd = next(k for k, p in params.items() if str(p.device) != devices[0])
        detail = f"the model is spread over {', '.join(devices)}"
        rows.append(Row("parameters", False, odd, detail, f'`model.to("{devices[0]}")`'))
    trainable = [k for k, p in params.items() if p.requires_grad]
    if not trainable:
        rows.append(
            Row("parameters", False, "", "every parameter is frozen", "`model.requires_grad_()`")
        )
    elif frozen := [k for k, p in params.items() if not p.requires_grad]:
        detail = f"{len(frozen)} of {len(params)} parameter tensors are frozen"
        rows.append(
            Row("parameters", True, frozen[0], detail, "they are neither adapted nor learned")
        )
    if tied := _tied(model):
        detail = f"shared with {', '.join(tied[1:])}"
        rows.append(Row("parameters", True, tied[0], detail, "adapted as one tensor"))
    return rows or [Row("parameters", True, "", f"{len(trainable)} trainable tensors")]


def norm_rows(model: nn.Module, norm: str | None) -> list[Row]:
    """The normalisation layers that need a policy, and the policies they can follow."""
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm)
        or (isinstance(layer, _InstanceNorm) and layer.track_running_stats)
    }
    if not layers and norm is None:
        return [Row("normalisation", True, "", "no layer needs a policy")]
    possible = [f'norm="{p}"' for p in ("batch", "support", "running") if _follows(model, p)]
    first = next(iter(layers), "")
    try:
        norms.choose(model, norm)
    except ValueError as error:
        text = str(error)
        layer = next((name for name in layers if f"`{name}`" in text), first)
        label = layer_label(layer, layers[layer]) if layers else ""
        detail, _, told = text.partition("; ")
        if not told:
            detail, _, told = text.partition(". ")
        advice = f"say {' or '.join(possible)}" if possible else told
        return [Row("normalisation", False, label, detail, advice)]
    if not layers:
        return [Row("normalisation", True, "", "no layer needs a policy")]
    detail = (
        f"{len(layers)} layer{'s share' if len(layers) > 1 else ' shares'} a batch's statistics"
    )
    if norm is not None:
        return [Row("normalisation", True, layer_label(first, layers[first]), f'norm="{norm}"')]
    advice = f'norm="batch" unless you say otherwise; possible: {", ".join(possible)}'
    return [Row("normalisation", True, layer_label(first, layers[first]), detail, advice)]


def _follows(model: nn.Module, policy: str) -> bool:
    try:
        norms.choose(model, policy)
    except ValueError:
        return False
    return True


def _refused(model: nn.Module) -> Row | None:
    """What `ModelCall` itself does not take: lazy layers, no parameters, no copy possible."""
    policies = ("batch", "support", "running")
    for policy in policies:
        try:
            ModelCall(model, policy)
        except ValueError as error:
            text = str(error)
        else:
            return None
    detail, _, advice = text.partition("; ")
    return Row("module", False, "", detail, advice)


def _compiled(name: str, module: nn.Module, advice: str) -> Row:
    detail = "compiled backward graphs cannot be differentiated again"
    return Row("module", False, layer_label(name, module), detail, advice)


def _size(model: nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()):,} parameters"


def _tied(model: nn.Module) -> list[str]:
    """The names of the first parameter that has more than one."""
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    return next((group for group in names.values() if len(group) > 1), [])

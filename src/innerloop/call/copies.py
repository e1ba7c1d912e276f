"""Copies of a model that are handed out, and what cannot be copied or differentiated."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm


def copied(model: nn.Module) -> nn.Module:
    """A copy of its own: parameters and buffers are copied, and functions that hold on to modules
    or tensors of the original (closures, default arguments) hold on to those of the copy.

    What cannot be copied, such as a lock, a file or an iterator, is shared with the original;
    tensors with a graph that were left in attributes are shared without it.
    """
    memo: dict[int, Any] = {}
    made = _functions(model, memo)
    while True:
        tried = dict(memo)
        try:
            found: nn.Module = copy.deepcopy(model, tried)
            break
        except Exception as error:
            if not _share(model, memo):
                raise ValueError(
                    f"{type(model).__name__} cannot be copied ({error}); keep only parameters, "
                    "buffers and plain values in it"
                ) from error
    for original, twin in made:
        _bind(original, twin, tried)
    return found


def _share(model: nn.Module, memo: dict[int, Any]) -> bool:
    """Note in `memo` the first attribute that cannot be copied as its own copy."""
    structure = {"_parameters", "_buffers", "_modules"}
    for module in model.modules():
        inner = {id(m): m for m in module.modules()}
        for key, value in module.__dict__.items():
            if key in structure or id(value) in memo:
                continue
            try:
                copy.deepcopy(value, {**memo, **inner})
            except Exception:
                memo[id(value)] = value.detach() if isinstance(value, Tensor) else value
                return True
    return False


def _functions(
    model: nn.Module, memo: dict[int, Any]
) -> list[tuple[types.FunctionType, types.FunctionType]]:
    """Every function that the tree's attributes reach and that may hold on to it, with a twin whose
    closure is still empty. `copy.deepcopy` itself takes functions as they are."""
    made = []
    open_ = [v for module in model.modules() for v in _held(module)]
    known: set[int] = set()
    for value in open_:  # grows
        if id(value) in known:
            continue
        known.add(id(value))
        if isinstance(value, types.FunctionType):
            if not (value.__closure__ or value.__defaults__ or value.__kwdefaults__):
                continue
            cells = tuple(types.CellType() for _ in value.__closure__ or ())
            twin = types.FunctionType(
                value.__code__, value.__globals__, value.__name__, None, cells or None
            )
            twin.__dict__.update(value.__dict__)
            twin.__qualname__ = value.__qualname__
            memo[id(value)] = twin
            made.append((value, twin))
            open_ += [*_cells(value), *(value.__defaults__ or ())]
            open_ += (value.__kwdefaults__ or {}).values()
        elif isinstance(value, partial):
            open_ += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, types.MethodType):
            open_.append(value.__self__)
        elif isinstance(value, list | tuple | set):
            open_ += value
        elif isinstance(value, dict):
            open_ += value.values()
    return made


def _held(module: nn.Module) -> Iterator[Any]:
    for key, value in module.__dict__.items():
        if key not in ("_parameters", "_buffers", "_modules"):
            yield value


def _cells(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue


def _bind(original: types.FunctionType, twin: types.FunctionType, memo: dict[int, Any]) -> None:
    """Fill the twin's closure and defaults with the copies of what the original holds."""

    def mapped(value: Any) -> Any:
        if id(value) in memo:
            return memo[id(value)]
        if isinstance(value, list | tuple | set | dict | partial | types.MethodType):
            return copy.deepcopy(value, memo)
        return value

    for ours, theirs in zip(twin.__closure__ or (), original.__closure__ or (), strict=True):
        try:
            ours.cell_contents = mapped(theirs.cell_contents)
        except ValueError:
            continue
    if original.__defaults__ is not None:
        twin.__defaults__ = tuple(map(mapped, original.__defaults__))
    if original.__kwdefaults__ is not None:
        twin.__kwdefaults__ = {k: mapped(v) for k, v in original.__kwdefaults__.items()}


def refuse(model: nn.Module) -> None:
    """Raise ValueError for what no call can make differentiable, with what to pass in its place."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected an nn.Module, got {type(model).__name__}")
    if isinstance(model, torch._dynamo.OptimizedModule):
        raise ValueError(
            "the model is compiled, and compiled backward graphs cannot be differentiated again; "
            "pass the original module (`model._orig_mod`)"
        )
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(
            f"the model is wrapped in {type(model).__name__}, which does not synchronise "
            "higher-order gradients; pass `model.module`"
        )
    for name, module in model.named_modules():
        _refuse_layer(f"layer `{name}`" if name else "the model", module)
    for name, p in model.named_parameters():
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise ValueError(f"parameter `{name}` is lazy: run the model once on a batch first")
    if not any(True for _ in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} has no parameters, so there is nothing to learn; pass a model "
            "with at least one trainable layer"
        )


def _refuse_layer(where: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(
            f"{where} is a script, whose weights cannot be exchanged for a call; pass the module "
            "that it was made from"
        )
    hooks = list(module._forward_pre_hooks.values())
    if any(isinstance(hook, WeightNorm) for hook in hooks):
        raise ValueError(
            f"{where} has the old weight_norm, whose second derivative is wrong; use "
            "torch.nn.utils.parametrizations.weight_norm in its place"
        )
    if any(type(hook).__name__ == "SpectralNorm" for hook in hooks):
        raise ValueError(
            f"{where} has the old spectral_norm, which keeps a state that no inner step brings up "
            "to date; use torch.nn.utils.parametrizations.spectral_norm in its place"
        )

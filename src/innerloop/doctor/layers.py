"""Finding the layer: the modules of a model one by one, each on the inputs it got."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..core.types import Params
from .probes import Target
from .trace import Call, Trace


def buffers_of(module: nn.Module) -> Params:
    """Copies of the module's buffers, under names that cannot meet a parameter's."""
    return {f"buffer:{k}": v.detach().clone() for k, v in module.named_buffers()}


def call_with(
    module: nn.Module, params: Params, data: Params, args: tuple[Any, ...], kwargs: Any = None
) -> Any:
    """`module(*args)` with these parameters and with copies of the buffers in `data`.

    The module's own buffers are not written, whatever its mode.
    """
    buffers = {
        k.removeprefix("buffer:"): v.clone() for k, v in data.items() if k.startswith("buffer:")
    }
    return functional_call(module, (params, buffers), args, kwargs)


def layer_target(call: Call) -> Target:
    """A scalar function of one layer's parameters and of the inputs that carry a gradient."""
    leaves, spec = tree_flatten((call.args, call.kwargs))
    primals = {
        f"param:{k}": v.detach().clone()
        for k, v in call.module.named_parameters()
        if v.requires_grad
    }
    frozen = {k: v.detach() for k, v in call.module.named_parameters() if not v.requires_grad}
    data = buffers_of(call.module)
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            kept = primals if leaf.requires_grad and leaf.is_floating_point() else data
            kept[f"input:{i}"] = leaf.detach()

    def function(p: Params, d: Params) -> Tensor:
        tensors = p | d
        filled = [tensors.get(f"input:{i}", leaf) for i, leaf in enumerate(leaves)]
        args, kwargs = tree_unflatten(filled, spec)
        params = {k.removeprefix("param:"): v for k, v in p.items() if k.startswith("param:")}
        return curved(call_with(call.module, params | frozen, d, args, kwargs))

    return Target(function, primals, data, seed=0 if call.random else None)


def curved(outputs: Any) -> Tensor:
    """A smooth scalar of whatever a layer returns, with a curvature in every entry."""
    total = None
    for leaf in tree_flatten(outputs)[0]:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            weights = torch.linspace(0.5, 1.5, leaf.numel(), dtype=leaf.dtype, device=leaf.device)
            term = (leaf * weights.reshape(leaf.shape)).tanh().pow(2).sum()
            total = term if total is None else total + term
    if total is None:
        raise TypeError("the layer returns no floating-point tensor")
    return total


def locate(trace: Trace, fails: Callable[[Target], str | None]) -> list[tuple[Call, str]]:
    """The innermost modules for which `fails` gives a reason.

    Descends only into modules that fail themselves: a layer that fails alone but works where it
    stands (because its parent chooses another kernel) is none of the reasons.
    """
    found: list[tuple[Call, str]] = []

    def descend(call: Call) -> bool:
        target = layer_target(call)
        reason = fails(target) if target.primals else None
        if reason is None:
            return False
        below = [descend(inner) for inner in trace.inside(call.name)]
        if not any(below):
            found.append((call, reason))
        return True

    for call in trace.inside(""):
        descend(call)
    if not found and "" in trace.calls:
        root = trace.calls[""]
        found.append((root, fails(layer_target(root)) or ""))
    return found

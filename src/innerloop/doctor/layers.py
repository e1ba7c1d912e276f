"""Finding the layer: the modules of a model one by one, each on the inputs it got."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..call import slots as functional
from ..core.types import Params
from .probes import Target
from .trace import Call, Trace


def layer_target(call: Call) -> Target:
    """A scalar function of one layer's parameters and of the inputs that carry a gradient."""
    leaves, spec = tree_flatten((call.args, call.kwargs))
    primals = {
        f"param:{k}": v.detach().clone()
        for k, v in call.module.named_parameters()
        if v.requires_grad
    }
    frozen = {k: v.detach() for k, v in call.module.named_parameters() if not v.requires_grad}
    buffers = {k: v.detach().clone() for k, v in call.module.named_buffers()}
    data: Params = {}
    places = functional.places(call.module)
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            kept = primals if leaf.requires_grad and leaf.is_floating_point() else data
            kept[f"input:{i}"] = leaf.detach()

    def function(p: Params, d: Params) -> Tensor:
        tensors = p | d
        filled = [tensors.get(f"input:{i}", leaf) for i, leaf in enumerate(leaves)]
        args, kwargs = tree_unflatten(filled, spec)
        params = {k.removeprefix("param:"): v for k, v in p.items() if k.startswith("param:")}
        # A layer may write to its buffers: it gets copies, shared by all tasks as in `ModelCall`.
        copies = {k: v.clone() for k, v in buffers.items()}
        tensors = params | frozen | copies
        return curved(functional.call(call.module, places, tensors, args, kwargs))

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
    stands (because its parent chooses another kernel) is none of the reasons. Empty if no module
    fails by itself.
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
        reason = fails(layer_target(root))
        if reason is not None:
            found.append((root, reason))
    return found

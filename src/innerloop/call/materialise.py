"""The adapted model handed out: a plain module of the user's own class.

Its `state_dict` has the entries of the user's own network, so it loads there with `strict=True`.
BatchNorm layers hold the support set's statistics as running ones. The network that they are loaded
into predicts what the module predicts:

| policy    | the module, in any mode  | the network with its state_dict                           |
|-----------|--------------------------|-----------------------------------------------------------|
| `running` | the running averages     | equal in eval mode                                        |
| `support` | the support statistics   | equal in eval mode (where it keeps running statistics)    |
| `batch`   | the batch's statistics   | equal in train mode without dropout; in eval mode it uses |
|           |                          | the support statistics, as `support` does                 |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.types import Params, Tree, leaves
from . import policy as norms
from .copies import copied
from .weight_norm import set_vectors

if TYPE_CHECKING:
    from .model import ModelCall

MOVE = 0.05
"""By which part of their size weights are moved to see whether a copy follows its own."""


def materialise(call: ModelCall, model: nn.Module, weights: Params, support: Tree) -> nn.Module:
    """A copy of the model with these weights (one task), in eval mode, following the policy.

    Raises ValueError where a copy does not compute what the model does, and under `support` for a
    layer that normalises more than once in a pass: it cannot hold several statistics.
    """
    twin = copied(model)
    with torch.no_grad():
        _prove(call, model, twin, support)
        for k, p in twin.named_parameters():
            if k in weights:
                p.copy_(weights[k])
        layers = norms.tracking(twin)
        if call.policy != "running" and layers:
            _freeze(call, model, twin, support)
        if call.policy == "batch":
            for layer in layers.values():
                norms.pin(layer)
        elif call.policy == "support":
            for layer in layers.values():
                if not isinstance(layer, _BatchNorm):
                    norms.pin(layer)
        set_vectors(twin)
    return twin.eval()


def _freeze(call: ModelCall, model: nn.Module, twin: nn.Module, support: Tree) -> None:
    """Give the copy's BatchNorm layers the statistics of the support set, without dropout."""
    watched = {
        name: norms.Watched(layer, name)
        for name, layer in norms.tracking(model).items()
        if isinstance(layer, _BatchNorm)
    }
    weights = {k: p.detach() for k, p in twin.named_parameters()}
    extra = [(watch.layer.__dict__, "forward", watch) for watch in watched.values()]
    call.try_out(weights, support, extra)
    for name, watch in watched.items():
        needed = call.policy == "support"
        if needed and len(watch.seen) > 1:
            raise ValueError(
                f"layer `{name}` normalises {len(watch.seen)} times in a pass, by other statistics "
                "each time, and a module can hold those of one only; give each place a layer of "
                'its own, or use norm="batch"'
            )
        if watch.seen:
            layer = twin.get_submodule(name)
            assert isinstance(layer, _BatchNorm)
            norms.freeze(layer, *watch.seen[-1], needed=needed)


def _prove(call: ModelCall, model: nn.Module, twin: nn.Module, support: Tree) -> None:
    """Raise ValueError unless the copy does what the model does, when its own weights are moved."""
    if call.proven:
        return
    other = type(call)(twin, call.policy)
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for k, p in model.named_parameters():
        spread = MOVE * (float(p.detach().abs().mean()) or 1.0)
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
        weights[k] = p.detach() + spread * noise
    ours, theirs = (part.try_out(weights, support) for part in (call, other))
    for a, b in zip(leaves(ours), leaves(theirs), strict=True):
        if not _alike(a, b):
            raise ValueError(
                f"a copy of {type(twin).__name__} does not compute what the model does, so no "
                "adapted module can be handed out: something in it refers to the original by a "
                "global name, or to values outside of it; make it a method, or an attribute"
            )
    call.proven = True


def _alike(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    if not a.is_floating_point() and not a.is_complex():
        return torch.equal(a, b)
    scale = float(a.abs().max().nan_to_num(posinf=1.0)) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)

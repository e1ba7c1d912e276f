"""A function of (model, batch) called with the weights of every task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..call import ModelCall
from ..core import trees
from ..core.types import Batch, Params
from ..objective.foreign import refuse_outside


class FunctionCall(ModelCall):
    """`function(model, batch)` of each task as a model call: its output is one scalar per task."""

    def __init__(
        self,
        model: nn.Module,
        function: Callable[..., Tensor],
        policy: str,
        hyper: nn.Module | None = None,
    ):
        if policy == "support":
            raise ValueError(
                'norm="support" runs the support set in front of a query, which a function that '
                'calls the model by itself cannot do; use norm="batch" or norm="running"'
            )
        super().__init__(_Applied(model, function, hyper), policy)
        self._name = f"the function {getattr(function, '__name__', type(function).__name__)}"
        self._looked = False

    def follow(self, other: ModelCall) -> None:
        """Take the modes and the precision of another call of the same model."""
        self.precision = other.precision
        self.follow_modes(other._training)

    def values(
        self,
        weights: Params,
        stacked: set[str],
        batch: Batch,
        stream: str,
        hyper: Params | None = None,
    ) -> Tensor:
        """(T,), with these weights in the model and these in the module that goes with it."""
        own = {f"model.{k}": v for k, v in weights.items()}
        own |= {f"hyper.{k}": v for k, v in (hyper or {}).items()}
        given = {"x": batch.x, "y": batch.y}
        if batch.weight is not None:
            given["weight"] = batch.weight
        names = {f"model.{k}" for k in stacked}
        if not self._looked:
            self._looked = True
            leaves = trees.leaves(own)
            with torch.enable_grad():
                refuse_outside(self._name, self(leaves, names, given, stream, None), leaves)
        found = self(own, names, given, stream, None)
        if found.dim() != 1:
            raise ValueError(
                f"expected the function of (model, batch) to return a scalar, got shape "
                f"{tuple(found.shape[1:])}: average over the examples"
            )
        return found


class _Applied(nn.Module):
    """A model and what is computed with it."""

    def __init__(self, model: nn.Module, function: Callable[..., Tensor], hyper: nn.Module | None):
        super().__init__()
        self.model = model
        self.function = function
        self.hyper = hyper

    def forward(self, x: Any, y: Any = None, weight: Tensor | None = None) -> Tensor:
        batch = Batch(x, y, weight)
        beside = () if self.hyper is None else (self.hyper,)
        found = self.function(self.model, batch, *beside)
        if not isinstance(found, torch.Tensor) or found.dim() != 0:
            told = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise ValueError(
                f"expected the function of (model, batch) to return a scalar tensor, got {told}"
            )
        return found

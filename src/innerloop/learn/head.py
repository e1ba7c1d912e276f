"""Closed-form and convex heads on features: R2-D2, LR-D2, MetaOptNet."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from ..core import checks, trees
from ..core.checks import positive
from ..core.classes import membership
from ..core.contract import Point
from ..core.types import Batch, Params, Tree, one_of
from ..heads import Head
from .features import FeatureLearner

Targets = Literal["classes", "values"]


class HeadLearner(FeatureLearner):
    """outputs(x) = scale * (f(x) W^T + b) + shift, with W, b fitted to the support features.

    The model maps inputs to features (n, d). With targets="classes" any number of
    classes and shots; every class from 0 to the largest label of a task must have a support
    example. With "values" (heads that can) y is (T, n, k).

    `scale` is the initial value of a learned factor, or None for no such factor. `shift` is learned
    with it, from 0, for values only: a number added to all logits of an example changes no
    softmax, so for classes it would be a parameter without a gradient.

    phi is `weight` (T, C, d) and `bias` (T, C), with the health of the solve beside them; both go
    on into `stats`.

    Raises ValueError for values on a head that knows classes only, and for scale <= 0.

    Source: Bertinetto et al. 2019, section 3.2 (alpha, beta); Lee et al. 2019, section 3.2 (gamma).
    """

    def __init__(
        self,
        model: nn.Module,
        head: Head,
        *,
        targets: Targets = "classes",
        norm: str | None = None,
        scale: float | None = None,
    ):
        super().__init__(model, norm=norm)
        checks.one_of("targets", targets, Targets)
        self.targets = targets
        reason = head.refuse(targets)
        if reason is not None:
            raise ValueError(f"{reason.reason}; {reason.fix}")
        first = next(model.parameters())
        self.head = head.to(first)
        self.scale = self.shift = None
        if scale is not None:
            self.scale = nn.Parameter(torch.tensor(positive("scale", scale)).to(first))
            if targets == "values":
                self.shift = nn.Parameter(torch.tensor(0.0).to(first))

    def adapt(self, meta: Params, support: Batch) -> Point:
        if support.weight is not None:
            raise ValueError(
                f"`{type(self.head).__name__}` fits all support examples alike; leave out "
                "`weight`, or repeat examples"
            )
        z = self.features(meta, support.x, None)
        targets = _values(support.y) if self.targets == "values" else membership(support.y)
        found = self.head.fit(trees.under("head.", meta), z, targets)
        # What it leaves behind is how the solve went.
        return Point(0, {"weight": found.weight, "bias": found.bias}, found.stats)

    def predict(self, meta: Params, point: Point, x: Tree, support: Batch) -> Tensor:
        z = self.features(meta, x, support.x)
        weight, bias = _scaled(meta, point.phi)
        return z.to(weight.dtype) @ weight.transpose(1, 2) + bias.unsqueeze(1)

    def health(self, meta: Params, point: Point, support: Batch) -> Params:
        return trees.detach(point.state)

    def module(self, point: Point, support: Batch) -> nn.Module:
        """The model followed by an ordinary linear layer."""
        model = self.call.materialise({}, one_of(support.x))
        weight, bias = _scaled(dict(self.named_parameters()), point.phi)
        head = nn.Linear(weight.shape[2], weight.shape[1]).to(next(model.parameters()))
        with torch.no_grad():
            head.weight.copy_(weight.squeeze(0))
            head.bias.copy_(bias.squeeze(0))
        return nn.Sequential(OrderedDict(model=model, head=head)).eval()

    def fitted_by(self) -> str:
        scale = "" if self.scale is None else ", learned scale"
        return self.head.describe() + scale


def _values(y: Tensor) -> Tensor:
    if not y.is_floating_point() or y.dim() != 3:
        raise ValueError(
            f'targets="values" needs y of shape (T, n, k), got {y.dtype} of shape '
            f"{tuple(y.shape)}; e.g. y.float().unsqueeze(-1)"
        )
    return y


def _scaled(meta: Params, phi: Params) -> tuple[Tensor, Tensor]:
    """Weight and bias with the learned scale and shift in them."""
    weight, bias = phi["weight"], phi["bias"]
    if "scale" in meta:
        weight, bias = meta["scale"] * weight, meta["scale"] * bias
    return weight, bias + meta["shift"] if "shift" in meta else bias

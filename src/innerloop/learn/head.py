"""Closed-form and convex heads on features: R2-D2, LR-D2, MetaOptNet."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ..core.contract import Outcome
from ..core.strength import positive
from ..core.types import Batch, Params, Task
from ..heads.head import Head
from ..objective.losses import Loss, LossLike
from .features import FeatureLearner, membership


class HeadLearner(FeatureLearner):
    """outputs(x) = scale * (f(x) W^T + b) + shift, with W, b fitted to the support features.

    The model maps inputs to features (n, d). Classes: any number, and any number of shots; every
    class from 0 to the largest label of a task must have a support example. Values (`loss="mse"`
    and the like, heads that can): targets y (T, n, k).

    `scale` is the initial value of a learned factor, or None for no such factor. `shift` is learned
    with it, from 0, for values only: a number added to all logits of an example changes no
    softmax, so for classes it would be a parameter without a gradient.

    phi is `weight` (T, C, d) and `bias` (T, C), with the health of the solve beside them; both go
    on into `stats`.

    Raises ValueError for a loss of values on a head that knows classes only, and for scale <= 0.

    Source: Bertinetto et al. 2019, section 3.2 (alpha, beta); Lee et al. 2019, section 3.2 (gamma).
    """

    def __init__(
        self,
        model: nn.Module,
        head: Head,
        *,
        loss: LossLike | Loss = "cross_entropy",
        norm: str | None = None,
        scale: float | None = None,
    ):
        super().__init__(model, loss=loss, norm=norm)
        if self.kind == "regression" and not head.values:
            raise ValueError(
                f"`{type(head).__name__}` separates classes and cannot fit values with the loss "
                f'{self.loss.name}; use `Ridge()`, or loss="cross_entropy"'
            )
        first = next(model.parameters())
        self.head = head.to(first)
        self.scale = self.shift = None
        if scale is not None:
            self.scale = nn.Parameter(torch.tensor(positive("scale", scale)).to(first))
            if self.kind == "regression":
                self.shift = nn.Parameter(torch.tensor(0.0).to(first))

    def adapt(self, meta: Params, support: Batch) -> Params:
        z = self.features(meta, support.x, None)
        targets = self._values(support.y) if self.kind == "regression" else membership(support.y)
        hyper = {k.removeprefix("head."): v for k, v in meta.items() if k.startswith("head.")}
        found = self.head.fit(hyper, z, targets)
        return {"weight": found.weight, "bias": found.bias, **found.stats}

    def predict(self, meta: Params, phi: Params, x: Tensor, support: Batch) -> Tensor:
        z = self.features(meta, x, support.x)
        weight, bias = _scaled(meta, phi)
        return z.to(weight.dtype) @ weight.transpose(1, 2) + bias.unsqueeze(1)

    def outer(self, meta: Params, phi: Params, task: Task) -> Outcome:
        health = {k: v.detach() for k, v in phi.items() if k not in ("weight", "bias")}
        return super().outer(meta, phi, task)._replace(stats=health)

    def materialise(self, phi: Params, support: Batch) -> nn.Module:
        """The model followed by an ordinary linear layer."""
        model = self.call.materialise({}, support.x.squeeze(0))
        weight, bias = _scaled(dict(self.named_parameters()), phi)
        head = nn.Linear(weight.shape[2], weight.shape[1]).to(next(model.parameters()))
        with torch.no_grad():
            head.weight.copy_(weight.squeeze(0))
            head.bias.copy_(bias.squeeze(0))
        return nn.Sequential(OrderedDict(model=model, head=head)).eval()

    def solver(self) -> str:
        scale = "" if self.scale is None else ", learned scale"
        return self.head.describe() + scale

    def _values(self, y: Tensor) -> Tensor:
        if not y.is_floating_point() or y.dim() != 3:
            raise ValueError(
                f"the loss {self.loss.name} needs values y of shape (T, n, k), got {y.dtype} of "
                f"shape {tuple(y.shape)}; e.g. y.float().unsqueeze(-1)"
            )
        return y


def _scaled(meta: Params, phi: Params) -> tuple[Tensor, Tensor]:
    """Weight and bias with the learned scale and shift in them."""
    weight, bias = phi["weight"], phi["bias"]
    if "scale" in meta:
        weight, bias = meta["scale"] * weight, meta["scale"] * bias
    return weight, bias + meta["shift"] if "shift" in meta else bias

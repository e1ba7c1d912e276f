"""Proto-MAML: every task starts from a head that is its prototypical classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core.types import Batch, Params
from ..objective.losses import Loss, LossLike
from ..scope import Scope
from ..solve import Solver
from .features import membership
from .gradient import GradientLearner


class PrototypeStart(GradientLearner):
    """A `GradientLearner` whose linear head starts from w_k = 2 c_k, b_k = -|c_k|^2.

    c_k is the mean of class k's support features; the logits of phi_0 are then those of a
    prototypical network, up to a number that is the same for all classes. The gradient flows
    through c_k into the body; the head's own weights take no part. `head` names the linear layer.
    The number of classes is the task's, not the head's. With a fixed rate, training and test may
    have any number of classes.

    Source: Triantafillou et al. 2020 (Meta-Dataset): Proto-MAML.
    """

    def __init__(
        self,
        model: nn.Module,
        solver: Solver,
        scope: Scope | None = None,
        *,
        head: str = "head",
        loss: LossLike | Loss = "cross_entropy",
        norm: str | None = None,
    ):
        layer = dict(model.named_modules()).get(head)
        if not isinstance(layer, nn.Linear) or layer.bias is None:
            raise ValueError(
                f"prototypes start a linear head with a bias, and the model's {head!r} is "
                f"{type(layer).__name__ if layer is not None else 'missing'}; name it with head=..."
            )
        super().__init__(model, solver, scope, loss=loss, norm=norm)
        self.head = head
        if self.kind != "classification":
            raise ValueError(f"prototypes need classes, and the loss {self.loss.name} has none")
        left_out = [k for k in self._head_names() if k not in self.names]
        if left_out:
            raise ValueError(
                f"the scope `{self.scope.describe()}` leaves out {', '.join(left_out)}, which "
                "start from the prototypes: adapt the head, or use ProtoLearner"
            )

    @property
    def varies(self) -> str | None:  # type: ignore[override]
        return "the head has as many rows as the labels name classes"

    def start(self, meta: Params, support: Batch) -> Params:
        weight, bias = self._head_names()
        phi = super().start(meta, support)
        means = self._means(meta, support)
        return phi | {weight: 2 * means, bias: -means.square().sum(-1)}

    def materialise(self, phi: Params, support: Batch) -> nn.Module:
        weight, bias = self._head_names()
        model = super().materialise(
            {k: v for k, v in phi.items() if k not in (weight, bias)}, support
        )
        layer = model.get_submodule(self.head)
        assert isinstance(layer, nn.Linear)
        layer.weight = nn.Parameter(phi[weight].squeeze(0).clone())
        layer.bias = nn.Parameter(phi[bias].squeeze(0).clone())
        layer.out_features = len(layer.bias)
        return model

    def describe(self) -> dict[str, str]:
        told = super().describe()
        return {**told, "scope": f"{told['scope']}, the head from prototypes"}

    def _head_names(self) -> tuple[str, str]:
        return f"{self.head}.weight", f"{self.head}.bias"

    def _means(self, meta: Params, support: Batch) -> Tensor:
        """The mean features (T, C, d) of each class: what the model gives with an identity head."""
        member = membership(support.y).to(next(iter(meta.values())).dtype)
        weights = {k.removeprefix("model."): v for k, v in meta.items() if k.startswith("model.")}
        weight, bias = self._head_names()
        width = weights[weight].shape[1]
        weights[weight] = torch.eye(width, dtype=member.dtype, device=member.device)
        weights[bias] = torch.zeros(width, dtype=member.dtype, device=member.device)
        features = self.call(weights, set(), support.x, "start", None)
        return member.mT @ features / member.sum(1).unsqueeze(-1)

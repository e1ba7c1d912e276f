"""HF-MAML: curvature by finite differences, on examples that the inner step has not seen."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..core.contract import Estimator, IterativeLearner, Learner
from ..core.curvature import Curvature, FiniteDifference, Linearised, Where, gradient_at
from ..core.types import Batch, MetaGradient, Params, Task
from .sweep import Adjoint


class HessianFree(Estimator):
    """The sweep with three independent batches per task: the support set is parted in two.

    phi = theta - alpha g_in(theta),  v = grad L_query(phi),
    G = v - alpha [g_h(theta + delta v) - g_h(theta - delta v)] / 2 delta,

    g_in and g_h on the first part and on the rest of the support set; `held` is the fraction of the
    rest. Classes are shared out evenly; ValueError where a part lacks one, so two shots are the
    least. With more steps the recurrence runs through all of them. `displacement` is delta |v|; see
    `FiniteDifference`. With h = in this is `Adjoint(FiniteDifference())`. Adapting a task for use
    takes all examples.

    Source: Fallah, Mokhtari, Ozdaglar 2020 (HF-MAML).
    """

    needs = IterativeLearner
    recordable = False
    every_step = True

    def __init__(self, *, held: float = 0.5, displacement: float | None = None):
        if not 0 < held < 1:
            raise ValueError(f"expected a fraction 0 < held < 1 of the support, got held={held!r}")
        self.held = held
        self.curvature = FiniteDifference(displacement)

    def __call__(self, learner: Learner, meta: Params, tasks: Task) -> MetaGradient:
        first, rest = parted(tasks.support, self.held)
        sweep = Adjoint(_Elsewhere(self.curvature, rest))
        return sweep(learner, meta, Task(first, tasks.query))

    def describe(self) -> str:
        return f"Hessian-free, finite difference on {self.held:.0%} of the support"


class _Elsewhere(Curvature):
    """Losses and gradient where the inner step was made, products on other examples."""

    def __init__(self, curvature: Curvature, support: Batch):
        self.curvature = curvature
        self.support = support

    def at(self, where: Where) -> Linearised:
        there = self.curvature.at(replace(where, support=self.support))
        return _Parted(where, there)

    def describe(self) -> str:
        return f"{self.curvature.describe()} on other examples"


class _Parted(Linearised):
    def __init__(self, where: Where, there: Linearised):
        self.losses, self.grad = gradient_at(where)
        self._there = there

    def pull(
        self, u: Params, loss_cotangent: Tensor | None = None, *, again: bool = False
    ) -> tuple[Params, Params]:
        return self._there.pull(u, loss_cotangent, again=again)


def parted(support: Batch, held: float) -> tuple[Batch, Batch]:
    """The support set in two, the second with the fraction `held`, classes shared out evenly."""
    n = support.x.shape[1]
    count = n - round(held * n)
    if not 0 < count < n:
        raise ValueError(
            f"a support set of {n} examples cannot be parted with held={held:g}; give more shots"
        )
    order = torch.arange(n, device=support.x.device).expand(support.x.shape[:2])
    if not support.y.is_floating_point() and support.y.dim() == 2:
        member = one_hot(support.y.long())
        # How many of its own class came before each example.
        rank = (member.cumsum(1) * member).sum(2)
        order = rank.argsort(dim=1, stable=True)
        ordered = member.take_along_dim(order.unsqueeze(2), 1)
        whole = [part.any(1) for part in (member, ordered[:, :count], ordered[:, count:])]
        if not (whole[0] == whole[1] & whole[2]).all():
            raise ValueError(
                f"held={held:g} of {n} support examples leaves a class out of one of the two "
                "parts: HF-MAML needs each in both, so at least 2 shots, and held near 0.5 for few"
            )

    def rows(v: Tensor, chosen: Tensor) -> Tensor:
        return v.gather(
            1, chosen.reshape(*chosen.shape, *[1] * (v.dim() - 2)).expand(-1, -1, *v.shape[2:])
        )

    first, rest = order[:, :count], order[:, count:]
    return (
        Batch(rows(support.x, first), rows(support.y, first)),
        Batch(rows(support.x, rest), rows(support.y, rest)),
    )

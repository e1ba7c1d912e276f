"""HF-MAML: curvature by finite differences, on examples that the inner step has not seen."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..core import path as loop
from ..core import trees
from ..core.contract import (
    Estimator,
    Learner,
    MetaGradientFunction,
    Objective,
    OuterWeights,
    Path,
    Point,
    Refusal,
    View,
)
from ..core.curvature import FiniteDifference, Lazy
from ..core.types import Batch, MetaGradient, Params, Task, examples, leaf, mapped
from .sweep import Adjoint, Turns


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

    needs = Path

    def __init__(self, *, held: float = 0.5, displacement: float | None = None):
        if not 0 < held < 1:
            raise ValueError(f"expected a fraction 0 < held < 1 of the support, got held={held!r}")
        self.held = held
        self.curvature = FiniteDifference(displacement)

    def on(self, learner: Learner, objective: Objective) -> MetaGradientFunction:
        path = self.seen(learner, Path)  # type: ignore[type-abstract]
        objective.bind(learner)

        def hessian_free(meta: Params, tasks: Task, weights: OuterWeights) -> MetaGradient:
            first, rest = split_support(tasks.support, self.held)
            turns = _HeldOut(learner, objective, path, self.curvature)
            turns.rest = rest
            return Adjoint().sweep(turns)(meta, Task(first, tasks.query), weights)

        return hessian_free

    def program(self) -> Refusal | None:
        return Refusal(
            "`HessianFree` reads the labels to share the classes out", 'Use engine="eager"'
        )

    def describe(self) -> str:
        return f"Hessian-free, finite difference on {self.held:.0%} of the support"


class _HeldOut(Turns):
    """Steps on the support set that they are given, products on the rest of it."""

    rest: Batch

    def view(self, meta: Params, point: Point, support: Batch, exact: bool) -> View:
        data = self.path.data(trees.detach(meta), point, support)
        held = self.path.data(trees.detach(meta), point, self.rest)
        rest = loop.losses_of(self.path, point, held)
        here = _Elsewhere(loop.losses_of(self.path, point, data), meta, point.phi)
        here.there = self.curvature.view(rest, meta, point.phi)
        return here


class _Elsewhere(Lazy):
    """Losses and gradient where the inner step was made, products on other examples."""

    there: View

    def product(self, u: Params, losses: Tensor | None = None) -> tuple[Params, Params]:
        return self.there.product(u, losses)


def split_support(support: Batch, held: float) -> tuple[Batch, Batch]:
    """The support set in two, the second with the fraction `held`, classes shared out evenly."""
    n = examples(support)
    count = n - round(held * n)
    if not 0 < count < n:
        raise ValueError(
            f"a support set of {n} examples cannot be parted with held={held:g}; give more shots"
        )
    x = leaf(support.x)
    order = torch.arange(n, device=x.device).expand(x.shape[:2])
    y = support.y
    if isinstance(y, Tensor) and not y.is_floating_point() and y.dim() == 2:
        member = one_hot(y.long())
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

    def chosen(order: Tensor) -> Batch:
        return mapped(
            lambda v: v.gather(
                1, order.reshape(*order.shape, *[1] * (v.dim() - 2)).expand(-1, -1, *v.shape[2:])
            ),
            support,
        )

    return chosen(order[:, :count]), chosen(order[:, count:])

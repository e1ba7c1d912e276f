"""The discrete adjoint sweep: (dphi_K/dmeta)^T v with one inner graph alive at a time.

For phi_{t+1}, s_{t+1} = step(meta, t, phi_t, g_t, l_t, s_t), g_t = d sum(inner losses) / d phi:

    lam, mu <- d outer / d phi_K, 0 ;  G <- d outer / d meta
    for t = K-1 ... 0:
        (m, p, u, l, s) <- vjp of step at t, applied to (lam, mu)
        (h_phi, h_meta) <- (H_phi,phi u, H_meta,phi u)       if t >= K - last, else 0
        lam, mu, G      <- p + h_phi, s, G + m + h_meta
    G <- G + vjp of start applied to lam

With gradient descent p + h_phi = (I - alpha H) lam: the product of the K factors, read right to
left. The order of derivatives never exceeds two.

For outer losses at every step, sum_t w_t outer(phi_t), lam starts from w_K d outer / d phi_K; once
it has reached phi_t, w_t d outer / d phi_t is added to it and w_t d outer / d meta to G.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..core import path as loop
from ..core import trees
from ..core.contract import Estimator, IterativeLearner, Learner, Outcome
from ..core.curvature import Curvature, Linearised, ReverseOverReverse, Where, gradient_at
from ..core.path import Point
from ..core.types import Batch, MetaGradient, Params, Task
from .unrolled import Unrolled

KEPT_STEPS, KEPT_BYTES = 16, 8 * 2**20
"""Every state is kept up to this many inner steps, or while all of them together are this small."""


class Adjoint(Estimator):
    """The exact meta-gradient, by the sweep.

    `curvature` supplies the Hessian-vector products (`ReverseOverReverse`, `ForwardOverReverse`,
    `FiniteDifference`). `last=n` keeps the curvature of the last n steps only (truncated; 0 is
    first order). `store_every=k` keeps every k-th phi and recomputes the others, k steps at a time;
    by default all are kept up to 16 steps, and beyond as many as fit into 8 MiB (at least about
    2 sqrt(K)), at the price of up to one more inner gradient per step. `store_every=1` keeps all:
    fastest.
    """

    needs = IterativeLearner
    every_step = True

    def __init__(
        self,
        curvature: Curvature | None = None,
        *,
        last: int | None = None,
        store_every: int | None = None,
    ):
        if last is not None and last < 0:
            raise ValueError(f"expected last >= 0, or None for all steps, got last={last!r}")
        if store_every is not None and store_every < 1:
            raise ValueError(
                f"expected store_every >= 1, or None to choose by the number of steps, got "
                f"store_every={store_every!r}"
            )
        self.curvature = curvature or ReverseOverReverse()
        self.last = last
        self.store_every = store_every

    def __call__(self, learner: Learner, meta: Params, tasks: Task) -> MetaGradient:
        assert isinstance(learner, IterativeLearner)
        if learner.steps == 1 and self.last is None and type(self.curvature) is ReverseOverReverse:
            # One step: the sweep is a single turn, which plain autograd makes in fewer calls.
            return Unrolled()(learner, meta, tasks)
        fixed = trees.detach(meta)
        stored: list[Point] = []
        every = self.store_every or spacing(learner, fixed, tasks.support)
        weights = learner.outer_weights()
        needed = self._needed(learner) if weights is None else 0
        for point in loop.points(learner, fixed, tasks.support):
            if point.t % every == 0 and point.t + every > needed:
                stored.append(point)
        end = point
        # A loop that a tolerance ended early stands still for the rest of its steps.
        weight = None if weights is None else weights[max(end.t - 1, 0) :].sum()
        outcome, lam, total = outer_gradient(learner, meta, end.phi, tasks, weight)
        mu: Params = {}
        for point in self._backwards(learner, fixed, tasks.support, stored, end.t):
            if not self._skips(learner, point.t, end.t):
                where = Where(learner, meta, point.t, point.phi, tasks.support)
                lam, mu, found = pull_step(where, point, lam, mu, self._linearise(where, end.t))
                total = trees.merge(total, found)
            elif weights is None:
                break
            if weights is not None and point.t > 0:
                early, more, found = outer_gradient(
                    learner, meta, point.phi, tasks, weights[point.t - 1]
                )
                lam, total = trees.merge(lam, more), trees.merge(total, found)
                outcome = outcome._replace(losses=outcome.losses + early.losses)
        total = trees.merge(total, pull_start(learner, meta, tasks.support, lam))
        stats = loop.summary(outcome, tasks) | loop.health(learner, fixed, end, tasks.support)
        return MetaGradient(outcome.losses.detach().sum(), total, stats)

    def _linearise(self, where: Where, end: int) -> Linearised:
        exact = self.last is None or where.t >= end - self.last
        return self.curvature.at(where) if exact else _Constant(where)

    def _needed(self, learner: IterativeLearner) -> int:
        """The first step whose point the sweep may ask for."""
        if self.last is None or not learner.plain or learner.tolerance is not None:
            return 0  # a tolerance may end the loop anywhere
        return learner.steps - self.last

    def _skips(self, learner: IterativeLearner, t: int, end: int) -> bool:
        """Whether step t and all before it pass lam on unchanged: plain steps without curvature."""
        return self.last is not None and learner.plain and t < end - self.last

    def _backwards(
        self, learner: IterativeLearner, meta: Params, support: Batch, stored: list[Point], end: int
    ) -> Iterator[Point]:
        """The points end-1 … 0; those between two stored ones are recomputed, and then dropped."""
        while stored:
            point = stored.pop()
            if point.t == end:
                continue
            replayed = list(loop.advance(learner, meta, support, point, end - 1))
            while replayed:
                yield replayed.pop()
            yield point
            end = point.t

    def describe(self) -> str:
        told = f"adjoint sweep, {self.curvature.describe()}"
        if self.last is not None:
            told += f", curvature of the last {self.last} steps"
        return told + (f", every {self.store_every}th state kept" if self.store_every else "")


class FirstOrder(Estimator):
    """The sweep without curvature: inner gradients count as constants (FOMAML).

    What a learned rate or momentum contributes directly is kept.
    Source: Finn et al. 2017, section 5.2.
    """

    needs = IterativeLearner
    every_step = True

    def __call__(self, learner: Learner, meta: Params, tasks: Task) -> MetaGradient:
        return Adjoint(last=0)(learner, meta, tasks)

    def describe(self) -> str:
        return "first order"


def spacing(
    learner: IterativeLearner, meta: Params, support: Batch, *, limit: int = KEPT_BYTES
) -> int:
    """Steps between stored states. With k, K / k are stored and k replayed at a time.

    The smallest k that keeps them within `limit` bytes; at most sqrt(K), where they are fewest.
    """
    steps = learner.steps
    if steps <= KEPT_STEPS:
        return 1
    with torch.no_grad():
        phi = learner.start(meta, support)
        state = learner.initial_state(meta, phi)
    size = sum(v.nbytes for v in (*phi.values(), *state.values()))
    fewest = math.isqrt(steps - 1) + 1
    return next((k for k in range(1, fewest) if (steps / k + k - 1) * size <= limit), fewest)


def outer_gradient(
    learner: Learner, meta: Params, phi: Params, tasks: Task, weight: Tensor | None = None
) -> tuple[Outcome, Params, Params]:
    """The outer objective at phi, its gradient in phi, and its direct gradient in meta.

    With a `weight` the losses, and so both gradients, are multiplied by it.

    What it does not depend on is left out, here and all through the sweep: so the names of
    parameters that no gradient reaches come out at its end.
    """
    inputs = {"phi " + k: v for k, v in trees.leaves(phi).items()}
    inputs |= {"meta " + k: v for k, v in meta.items()}
    with torch.enable_grad():
        outcome = learner.outer(meta, {k: inputs["phi " + k] for k in phi}, tasks)
        if weight is not None:
            outcome = outcome._replace(losses=weight * outcome.losses)
        found = trees.gradient(outcome.losses, inputs)
    lam = {k: found["phi " + k] for k in phi if "phi " + k in found}
    direct = {k[5:]: v for k, v in found.items() if k.startswith("meta ")}
    found_stats = trees.detach(outcome.stats)
    return Outcome(outcome.losses.detach(), outcome.outputs.detach(), found_stats), lam, direct


def pull_start(learner: IterativeLearner, meta: Params, support: Batch, lam: Params) -> Params:
    """The vjp of phi_0 = start(meta, support), applied to lam."""
    with torch.enable_grad():
        phi = learner.start(meta, support)
        return trees.pull(phi.values(), meta, [lam.get(k) for k in phi])


def pull_step(
    where: Where, point: Point, lam: Params, mu: Params, inner: Linearised
) -> tuple[Params, Params, Params]:
    """One turn of the sweep: cotangents of (phi_t, s_t) and what this step adds to G."""
    if where.learner.plain and where.learner.tolerance is None:
        # phi' = phi - a g with a number a, so lam <- lam - a H lam: the step itself, once more.
        def stepped(at: Params, along: Params) -> Params:
            return where.learner.step(where.meta, point.t, at, along, inner.losses, {})[0]

        h_phi, h_meta = inner.pull(lam)
        moved = {k: lam[k] if k in lam else torch.zeros_like(h) for k, h in h_phi.items()}
        return {**lam, **stepped(moved, h_phi)}, {}, stepped(trees.zeros_like(h_meta), h_meta)
    leaves = (
        {"phi " + k: v for k, v in trees.leaves(point.phi).items()}
        | {"state " + k: v for k, v in trees.leaves(point.state).items()}
        | {"grad " + k: v for k, v in trees.leaves(inner.grad).items()}
        | {"loss": inner.losses.detach().requires_grad_()}
        | {"meta " + k: v for k, v in where.meta.items()}
    )

    def part(prefix: str, tree: Params) -> Params:
        return {k[len(prefix) :]: v for k, v in tree.items() if k.startswith(prefix)}

    with torch.enable_grad():
        phi, state = loop.masked_step(
            where.learner,
            where.meta,
            Point(point.t, part("phi ", leaves), part("state ", leaves)),
            part("grad ", leaves),
            leaves["loss"],
            loop.still_moving(where.learner, inner.grad),
        )
        found = trees.pull(
            [*phi.values(), *state.values()],
            leaves,
            [*(lam.get(k) for k in phi), *(mu.get(k) for k in state)],
        )
    h_phi, h_meta = inner.pull(part("grad ", found), found.get("loss"))
    lam = trees.merge(part("phi ", found), h_phi)
    return lam, part("state ", found), trees.merge(part("meta ", found), h_meta)


class _Constant(Linearised):
    """The inner gradient as a constant: every product is zero."""

    def __init__(self, where: Where):
        self.losses, self.grad = gradient_at(where)

    def pull(
        self, u: Params, loss_cotangent: torch.Tensor | None = None, *, again: bool = False
    ) -> tuple[Params, Params]:
        return {}, {}

"""The discrete adjoint sweep: (dphi_K/dmeta)^T v with one inner graph alive at a time.

For phi_{t+1}, s_{t+1} = step(meta, t, phi_t, g_t, l_t, s_t), g_t = d sum(inner losses) / d phi:

    lam, mu <- w_K d outer / d phi_K, 0 ;  G <- w_K d outer / d meta
    for t = K-1 ... 0:
        (p, u, l, s, m) <- vjp of step at t, applied to (lam, mu)
        (h_phi, h_meta) <- (H_phi,phi u, H_meta,phi u)       if t >= K - last, else 0
        lam, mu, G      <- p + h_phi, s, G + m + h_meta
        if w_t:  lam, G <- lam + w_t d outer / d phi_t, G + w_t d outer / d meta
    G <- G + vjp of start applied to lam

With gradient descent p + h_phi = (I - alpha H) lam: the product of the K factors, read right to
left. The order of derivatives never exceeds two. `Turns` holds the five functions that the sweep
is made of; the recorded engine puts tapes of them in their place and drives the same sweep.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..core import path as loop
from ..core import trees
from ..core.contract import (
    Cotangents,
    Estimator,
    Learner,
    MetaGradientFunction,
    Objective,
    OuterWeights,
    Path,
    Point,
    Sweeping,
    View,
)
from ..core.curvature import Constant, Curvature, ReverseOverReverse
from ..core.types import Batch, MetaGradient, Params, Task
from .judged import Judged, judge
from .memory import remembered
from .unrolled import Unrolled

KEPT_STEPS, KEPT_BYTES = 16, 8 * 2**20
"""Every state is kept up to this many inner steps, or while all of them together are this small."""
FAST_KEPT_BYTES = 2**26
"""The same for turns that were recorded: speed is asked for there."""


class Turns:
    """The five functions of a sweep, for one learner, objective and oracle of curvature."""

    def __init__(self, learner: Learner, objective: Objective, path: Path, curvature: Curvature):
        self.learner, self.objective, self.path = learner, objective, path
        self.curvature = curvature

    def start(self, meta: Params, support: Batch) -> Point:
        """phi_0, without a graph."""
        return loop.begin(self.path, meta, support)

    def step(self, meta: Params, point: Point, support: Batch) -> Point | None:
        """The next point, without a graph; None once a tolerance has every task at rest."""
        return next(loop.advance(self.path, meta, support, point, point.t + 1), None)

    def outer(self, meta: Params, point: Point, tasks: Task, weight: Tensor | None) -> Judged:
        """The outer objective at a point, its losses multiplied by `weight` (T,) or a number.

        What it does not depend on is left out, here and all through the sweep: so the names of
        parameters that no gradient reaches come out at its end.
        """
        return judge(self.learner, self.objective, meta, point, tasks, weight)

    def turn(
        self, meta: Params, point: Point, lam: Params, mu: Params, support: Batch, exact: bool
    ) -> tuple[Params, Params, Params]:
        """Cotangents of (phi_t, s_t) from those after step t, and what the step adds to G.

        Unless `exact`, the inner gradient counts as constant.
        """
        view = self.view(meta, point, support, exact)
        found = loop.masked_pull(self.path, meta, point, view, lam, mu)
        return _turned(view, found, exact)

    def counted_turn(
        self, meta: Params, point: Point, lam: Params, mu: Params, support: Batch, left: Tensor
    ) -> tuple[Params, Params, Params, Tensor]:
        """`turn` where each task has `left` (T,) exact steps to go, and what it has before it.

        With a tolerance tasks come to rest at different steps: each counts its own last ones, so
        that it does not matter which others run beside it.
        """
        exact = bool((left > 0).any())
        view = self.view(meta, point, support, exact)
        moving = loop.still_moving(self.path, view.grad)
        assert moving is not None, "only a tolerance makes tasks count apart"
        found = loop.masked_pull(self.path, meta, point, view, lam, mu)
        share = (left > 0).to(view.losses.dtype)
        found = found._replace(
            grad={k: v * trees.rows(share, v) for k, v in found.grad.items()},
            losses=None if found.losses is None else found.losses * share,
        )
        return *_turned(view, found, exact), left - moving.to(left.dtype)

    def view(self, meta: Params, point: Point, support: Batch, exact: bool) -> View:
        """The inner objective of the step from this point, with its products if `exact`."""
        data = self.path.data(trees.detach(meta), point, support)
        oracle = self.curvature if exact else Constant()
        return oracle.view(loop.losses_of(self.path, point, data), meta, point.phi)

    def end(self, meta: Params, lam: Params, support: Batch) -> Params:
        """The vjp of phi_0 = start(meta, support), applied to lam."""
        with torch.enable_grad():
            phi = self.path.start(meta, support).phi
            return trees.pull(phi.values(), meta, [lam.get(k) for k in phi])


def _turned(view: View, found: Cotangents, exact: bool) -> tuple[Params, Params, Params]:
    """The vjp of a step, with the curvature products of the view if `exact`."""
    if not exact or (not found.grad and found.losses is None):
        return found.phi, found.state, found.meta
    h_phi, h_meta = view.product(found.grad, found.losses)
    return trees.merge(found.phi, h_phi), found.state, trees.merge(found.meta, h_meta)


class Sweep(Sweeping):
    """The recurrence above over any `turns`; `exact` is the number of last steps with curvature."""

    def __init__(self, turns: Turns, *, exact: int, store_every: int | None, kept_bytes: int):
        self.turns, self.path = turns, turns.path
        self.exact, self.store_every, self.kept_bytes = exact, store_every, kept_bytes
        # Steps that hand lam on without looking at their point need no point.
        self.apart = self.path.tolerance is not None and 0 < exact < self.path.steps
        self.blind = self.path.tolerance is None and (self.path.pull_constant({}, {}) is not None)

    def __call__(self, meta: Params, tasks: Task, weights: OuterWeights) -> MetaGradient:
        turns, support, by_step = self.turns, tasks.support, weights.by_step()
        fixed = trees.detach(meta)
        stored, end = self._forward(fixed, support, weights)
        judged = turns.outer(meta, end, tasks, weights.at(end.t, last=True))
        lam, total = judged.lam, judged.direct
        mu: Params = {}
        told = by_step.of(judged.losses, end.t, last=True)
        left = torch.full_like(judged.losses, self.exact, dtype=torch.long)
        for point in self._backwards(fixed, support, stored, end.t, weights):
            exact = point.t >= end.t - self.exact
            constant = None if exact or not self.blind else self.path.pull_constant(lam, mu)
            if constant is not None:
                lam, mu = constant
            else:
                if self.apart:
                    lam, mu, found, left = turns.counted_turn(meta, point, lam, mu, support, left)
                else:
                    lam, mu, found = turns.turn(meta, point, lam, mu, support, exact)
                total = trees.merge(total, found)
            if weights.steps is not None and point.t > 0:
                early = turns.outer(meta, point, tasks, weights.at(point.t, last=False))
                lam, total = trees.merge(lam, early.lam), trees.merge(total, early.direct)
                told = told + by_step.of(early.losses, point.t, last=False)
        for _ in range(self._first_needed(end.t, weights)):
            constant = self.path.pull_constant(lam, mu)
            assert constant is not None
            lam, mu = constant
        total = trees.merge(total, turns.end(meta, lam, support))
        stats = judged.stats | {"loss": told}
        stats |= turns.learner.health(fixed, end, support)
        loss = told if weights.tasks is None else told * weights.tasks
        return MetaGradient(loss.sum(), total, stats, remembered(turns.learner, end))

    def repeats(self, least: int) -> bool:
        steps = self.path.steps
        alike = len({self.path.key(t) for t in range(steps)}) == 1
        # Steps without curvature that look at their point would need a second kind of turn.
        return (
            steps >= least
            and alike
            and self.path.tolerance is None
            and (self.blind or self.exact >= steps)
        )

    def over(self, turns: Any) -> Sweep:
        """The same sweep over other turns, with no limit but speed on the states it keeps."""
        return Sweep(
            turns, exact=self.exact, store_every=self.store_every, kept_bytes=FAST_KEPT_BYTES
        )

    def _forward(
        self, meta: Params, support: Batch, weights: OuterWeights
    ) -> tuple[list[Point], Point]:
        """Points to start replays from, and the last one."""
        point = self.turns.start(meta, support)
        every = self.store_every or spacing(self.path.steps, point, self.kept_bytes)
        needed = self._first_needed(self.path.steps, weights)
        stored = []
        while True:
            if point.t % every == 0 and point.t + every > needed:
                stored.append(point)
            after = self.turns.step(meta, point, support) if point.t < self.path.steps else None
            if after is None:
                return stored, point
            point = after

    def _first_needed(self, end: int, weights: OuterWeights) -> int:
        """The first step whose point the sweep looks at."""
        return max(0, end - self.exact) if self.blind and weights.steps is None else 0

    def _backwards(
        self, meta: Params, support: Batch, stored: list[Point], end: int, weights: OuterWeights
    ) -> Iterator[Point]:
        """The points end-1 … 0; those between two stored ones are recomputed, and then dropped."""
        needed = self._first_needed(end, weights)
        while stored and end > needed:
            point = stored.pop()
            if point.t == end:
                continue
            replayed = []
            at: Point | None = point
            for _ in range(point.t, end - 1):
                assert at is not None
                at = self.turns.step(meta, at, support)
                assert at is not None, "a replay ended before the loop that it repeats"
                replayed.append(at)
            while replayed and replayed[-1].t >= needed:
                yield replayed.pop()
            if point.t >= needed:
                yield point
            end = point.t


class Adjoint(Estimator):
    """The exact meta-gradient, by the sweep.

    `curvature` supplies the Hessian-vector products (`ReverseOverReverse`, `ForwardOverReverse`,
    `FiniteDifference`). `last=n` keeps the curvature of the last n steps only (truncated; 0 is
    first order). `store_every=k` keeps every k-th phi and recomputes the others, k steps at a time;
    by default all are kept up to 16 steps, and beyond as many as fit into 8 MiB (at least about
    2 sqrt(K)), at the price of up to one more inner gradient per step. `store_every=1` keeps all:
    fastest.
    """

    needs = Path

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

    def on(self, learner: Learner, objective: Objective) -> MetaGradientFunction:
        path = self.seen(learner, Path)  # type: ignore[type-abstract]
        if path.steps == 1 and self.last is None and type(self.curvature) is ReverseOverReverse:
            # One step: the sweep is a single turn, which plain autograd makes in fewer calls.
            return Unrolled().on(learner, objective)
        objective.bind(learner)
        return self.sweep(Turns(learner, objective, path, self.curvature))

    def sweep(self, turns: Turns, kept_bytes: int = KEPT_BYTES) -> Sweep:
        """The sweep over these turns, keeping states of `kept_bytes` together at the most."""
        exact = turns.path.steps if self.last is None else self.last
        return Sweep(turns, exact=exact, store_every=self.store_every, kept_bytes=kept_bytes)

    def describe(self) -> str:
        told = f"adjoint sweep, {self.curvature.describe()}"
        if self.last is not None:
            told += f", curvature of the last {self.last} steps"
        return told + (f", every {self.store_every}th state kept" if self.store_every else "")


class FirstOrder(Adjoint):
    """The sweep without curvature: inner gradients count as constants (FOMAML).

    What a learned rate or momentum contributes directly is kept.
    Source: Finn et al. 2017, section 5.2.
    """

    def __init__(self) -> None:
        super().__init__(last=0)

    def describe(self) -> str:
        return "first order"


def spacing(steps: int, start: Point, limit: int) -> int:
    """Steps between stored states. With k, K / k are stored and k replayed at a time.

    The smallest k that keeps them within `limit` bytes; at most sqrt(K), where they are fewest.
    """
    if steps <= KEPT_STEPS:
        return 1
    size = sum(v.nbytes for v in (*start.phi.values(), *start.state.values()))
    fewest = math.isqrt(steps - 1) + 1
    return next((k for k in range(1, fewest) if (steps / k + k - 1) * size <= limit), fewest)

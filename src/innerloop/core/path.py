"""The inner loop, written once: gradient of the summed task losses, then one solver step.

Task i's loss depends on row i of phi only, so the gradient of the *sum* over tasks with respect to
the stacked phi is the stack of the per-task gradients. No `vmap` stands between two derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from . import trees
from .contract import (
    Cotangents,
    Given,
    Learner,
    Objective,
    Outcome,
    Path,
    Point,
    Trajectory,
    View,
)
from .curvature import Losses, Reverse, inner_gradient
from .types import Batch, Params, Task


def losses_of(path: Path, point: Point, data: Batch) -> Losses:
    """The inner objective at step t as a function of (meta, phi)."""
    return lambda meta, phi: path.losses(meta, Point(point.t, phi, point.state), data)


def still_moving(path: Path, grad: Params) -> Tensor | None:
    """Which tasks have not reached the gradient tolerance: (T,) bool, or None without one."""
    if path.tolerance is None:
        return None
    # Written so that NaN counts as moving: it must surface, not pass for convergence.
    return ~(trees.norm(trees.detach(grad)) <= path.tolerance)


def masked_step(path: Path, meta: Params, point: Point, view: View, moving: Tensor | None) -> Point:
    """One solver step; tasks that are done keep their phi and state."""
    after = path.step(meta, point, view)
    if moving is None:
        return after
    phi, state = _kept(moving, after.phi, point.phi), _kept(moving, after.state, point.state)
    return Point(after.t, phi, state)


def masked_pull(
    path: Path, meta: Params, point: Point, view: View, lam: Params, mu: Params
) -> Cotangents:
    """The vjp of `masked_step`: tasks that are done pass their cotangents on unchanged."""
    moving = still_moving(path, view.grad)
    if moving is None:
        return path.pull(meta, point, view, lam, mu)
    found = path.pull(meta, point, view, _masked(moving, lam), _masked(moving, mu))
    return found._replace(
        phi=trees.merge(_masked(~moving, lam), found.phi),
        state=trees.merge(_masked(~moving, mu), found.state),
    )


def _masked(moving: Tensor, tree: Params) -> Params:
    return {k: torch.where(trees.rows(moving, v), v, torch.zeros_like(v)) for k, v in tree.items()}


def _kept(moving: Tensor, new: Params, old: Params) -> Params:
    """`new` for the tasks that are moving, `old` for those that are done."""
    return {k: torch.where(trees.rows(moving, v), v, old[k]) for k, v in new.items()}


def begin(path: Path, meta: Params, support: Batch) -> Point:
    """phi_0 without a graph."""
    with torch.no_grad():
        t, phi, state = path.start(meta, support)
    return Point(t, trees.detach(phi), trees.detach(state))


def points(path: Path, meta: Params, support: Batch, steps: int | None = None) -> Iterator[Point]:
    """phi_0 … phi_K without a graph, K = `steps` or the path's own number.

    With a tolerance the loop ends early once no task moves: further steps would change nothing.
    """
    point = begin(path, meta, support)
    yield point
    yield from advance(path, meta, support, point, steps)


def advance(
    path: Path, meta: Params, support: Batch, point: Point, steps: int | None = None
) -> Iterator[Point]:
    """The points after `point`, up to step `steps`."""
    for _ in range(point.t, path.steps if steps is None else steps):
        data = path.data(meta, point, support)
        view = Reverse(losses_of(path, point, data), meta, point.phi)
        with torch.no_grad():
            moving = None if path.tolerance is None else still_moving(path, view.grad)
            if moving is not None and not moving.any():
                return
            t, phi, state = masked_step(path, meta, point, view, moving)
        point = Point(t, trees.detach(phi), trees.detach(state))
        yield point


def last(path: Path, meta: Params, support: Batch, steps: int | None = None) -> Point:
    """phi_K without a graph; only one point is alive at a time."""
    for point in points(path, meta, support, steps):
        final = point
    return final


def unrolling(path: Path, meta: Params, support: Batch) -> Iterator[Point]:
    """phi_0 … phi_K with the graph of the whole loop, differentiable in `meta`."""
    point = path.start(meta, support)
    yield point
    for _ in range(path.steps):
        # A start that no meta-parameter reaches (a context of zeros) still has to be followed.
        phi = {
            k: v if v.requires_grad or not trees.differentiable(v) else v.detach().requires_grad_()
            for k, v in point.phi.items()
        }
        point = point._replace(phi=phi)
        data = path.data(meta, point, support)
        losses, grad = inner_gradient(losses_of(path, point, data), meta, phi, create_graph=True)
        moving = still_moving(path, grad)
        point = masked_step(path, meta, point, Given(losses, grad), moving)
        yield point


def unroll(path: Path, meta: Params, support: Batch) -> Point:
    """phi_K with the graph of the whole loop: memory grows with K."""
    for point in unrolling(path, meta, support):
        final = point
    return final


def health(path: Path, meta: Params, end: Point, support: Batch) -> Params:
    """For a path with a tolerance: inner gradient norm at phi_K, and whether it is met, (T,)."""
    if path.tolerance is None:
        return {}
    data = path.data(meta, end, support)
    view = Reverse(losses_of(path, end, data), trees.detach(meta), end.phi)
    return met(path.tolerance, trees.norm(view.grad))


def met(tolerance: float | None, norm: Tensor) -> Params:
    """Stats of an inner solve that ended with gradient norms `norm` (T,)."""
    stats = {"inner_gradient_norm": norm}
    if tolerance is not None:
        # The mask compares the norm before a step; allow for its rounding.
        stats["inner_converged"] = norm <= tolerance * (1 + 1e-6)
    return stats


class Walk(Trajectory):
    """A path without its graph."""

    def __init__(self, path: Path):
        self.path, self.steps = path, path.steps

    def points(self, meta: Params, support: Batch, steps: int | None = None) -> Iterator[Point]:
        return points(self.path, meta, support, steps)


def trajectory(learner: Learner) -> Trajectory | None:
    """The learner as the points it passes, if it goes step by step."""
    found = learner.offer(Trajectory)  # type: ignore[type-abstract]
    if isinstance(found, Trajectory):
        return found
    path = learner.offer(Path)  # type: ignore[type-abstract]
    return Walk(path) if isinstance(path, Path) else None


def summary(objective: Objective, outcome: Outcome, tasks: Task) -> dict[str, Tensor]:
    """What is told of each task: its outer loss, the query loss, the metric; each (T,)."""
    losses = outcome.losses.detach()
    stats = {"loss": losses, **trees.detach(outcome.stats)}
    metric = objective.metric
    with torch.no_grad():
        value = metric.value(outcome.outputs, tasks.query)
    stats[metric.name] = value.detach().to(losses.dtype)
    return stats

"""The inner loop, written once: gradient of the summed task losses, then one solver step.

Task i's loss depends on row i of phi only, so the gradient of the *sum* over tasks with respect to
the stacked phi is the stack of the per-task gradients. No `vmap` stands between two derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from . import trees
from .contract import Around, IterativeLearner, Outcome
from .types import Batch, Params, Task


class Point(NamedTuple):
    """Where the inner loop stands before step `t`: phi_t and the solver's state s_t."""

    t: int
    phi: Params
    state: Params


def inner_gradient(
    learner: IterativeLearner,
    meta: Params,
    t: int,
    phi: Params,
    support: Batch,
    *,
    create_graph: bool = False,
) -> tuple[Tensor, Params]:
    """Inner losses (T,) and their gradient in phi. `phi` must be differentiable."""
    losses = learner.inner_losses(meta, t, phi, support)
    if not losses.requires_grad:
        raise ValueError(
            "the support loss does not depend on any adapted parameter, so there is nothing to "
            "descend: is the model's output detached, or computed under torch.no_grad()?"
        )
    found = trees.gradient(losses, phi, create_graph=create_graph)
    # An adapted tensor that the loss does not touch has gradient zero: it stays where it is.
    return losses, {k: found.get(k, torch.zeros_like(v)) for k, v in phi.items()}


def still_moving(learner: IterativeLearner, grad: Params) -> Tensor | None:
    """Which tasks have not reached the gradient tolerance: (T,) bool, or None without one."""
    if learner.tolerance is None:
        return None
    # Written so that NaN counts as moving: it must surface, not pass for convergence.
    return ~(trees.norm(trees.detach(grad)) <= learner.tolerance)


def masked_step(
    learner: IterativeLearner,
    meta: Params,
    point: Point,
    grad: Params,
    losses: Tensor,
    moving: Tensor | None,
) -> tuple[Params, Params]:
    """One solver step; tasks that are done keep their phi and state."""
    phi, state = learner.step(meta, point.t, point.phi, grad, losses, point.state)
    return _kept(moving, phi, point.phi), _kept(moving, state, point.state)


def _kept(moving: Tensor | None, new: Params, old: Params) -> Params:
    """`new` for the tasks that are moving, `old` for those that are done."""
    if moving is None:
        return new
    return {k: torch.where(trees.rows(moving, v), v, old[k]) for k, v in new.items()}


def points(
    learner: IterativeLearner, meta: Params, support: Batch, steps: int | None = None
) -> Iterator[Point]:
    """phi_0 … phi_K without a graph, K = `steps` or the learner's own number.

    With a tolerance the loop ends early once no task moves: further steps would change nothing.
    """
    with torch.no_grad():
        phi = trees.detach(learner.start(meta, support))
        state = trees.detach(learner.initial_state(meta, phi))
    yield Point(0, phi, state)
    yield from advance(learner, meta, support, Point(0, phi, state), steps)


def advance(
    learner: IterativeLearner,
    meta: Params,
    support: Batch,
    point: Point,
    steps: int | None = None,
) -> Iterator[Point]:
    """The points after `point`, up to step `steps`."""
    for _ in range(point.t, learner.steps if steps is None else steps):
        leaves, searches = trees.leaves(point.phi), learner.searches
        with torch.enable_grad():
            losses, grad = inner_gradient(
                learner, meta, point.t, leaves, support, create_graph=searches
            )
        with torch.no_grad():
            moving = still_moving(learner, grad)
            if moving is not None and not moving.any():
                return
            if searches:
                around = _around(learner, meta, point.t, leaves, grad, support)
                fixed, values = trees.detach(grad), losses.detach()
                phi = learner.search(meta, point.t, point.phi, fixed, values, around)
                phi, state = _kept(moving, phi, point.phi), point.state
            else:
                phi, state = masked_step(learner, meta, point, grad, losses.detach(), moving)
            point = Point(point.t + 1, phi, state)
        yield point


def _around(
    learner: IterativeLearner, meta: Params, t: int, phi: Params, grad: Params, support: Batch
) -> Around:
    """The inner objective as a function of phi, and the products that the graph of `grad` gives."""

    def product(v: Params) -> Params:
        found = trees.pull(grad.values(), phi, [v[k] for k in grad], retain_graph=True)
        return trees.add(trees.zeros_like(v), found)

    return Around(lambda at: learner.inner_losses(meta, t, at, support), product)


def last(
    learner: IterativeLearner, meta: Params, support: Batch, steps: int | None = None
) -> Point:
    """phi_K without a graph; only one point is alive at a time."""
    for point in points(learner, meta, support, steps):
        final = point
    return final


def unrolling(learner: IterativeLearner, meta: Params, support: Batch) -> Iterator[Params]:
    """phi_0 … phi_K with the graph of the whole loop, differentiable in `meta`."""
    phi = learner.start(meta, support)
    state = learner.initial_state(meta, phi)
    yield phi
    for t in range(learner.steps):
        # A start that no meta-parameter reaches (a context of zeros) still has to be followed.
        phi = {k: v if v.requires_grad else v.detach().requires_grad_() for k, v in phi.items()}
        losses, grad = inner_gradient(learner, meta, t, phi, support, create_graph=True)
        moving = still_moving(learner, grad)
        phi, state = masked_step(learner, meta, Point(t, phi, state), grad, losses, moving)
        yield phi


def unroll(learner: IterativeLearner, meta: Params, support: Batch) -> Params:
    """phi_K with the graph of the whole loop: memory grows with K."""
    for phi in unrolling(learner, meta, support):
        final = phi
    return final


def health(learner: IterativeLearner, meta: Params, end: Point, support: Batch) -> Params:
    """For a solver with a tolerance: inner gradient norm at phi_K, and whether it is met.

    Each (T,).
    """
    if learner.tolerance is None:
        return {}
    with torch.enable_grad():
        grad = inner_gradient(learner, meta, end.t, trees.leaves(end.phi), support)[1]
    return met(learner.tolerance, trees.norm(trees.detach(grad)))


def met(tolerance: float | None, norm: Tensor) -> Params:
    """Stats of an inner solve that ended with gradient norms `norm` (T,)."""
    stats = {"inner_gradient_norm": norm}
    if tolerance is not None:
        # The mask compares the norm before a step; allow for its rounding.
        stats["inner_converged"] = norm <= tolerance * (1 + 1e-6)
    return stats


def summary(outcome: Outcome, tasks: Task) -> dict[str, Tensor]:
    """Per-task query loss, accuracy where labels are classes, the learner's own: each (T,)."""
    stats = {"loss": outcome.losses.detach(), **outcome.stats}
    y = tasks.query.y
    if not y.is_floating_point() and outcome.outputs.dim() == y.dim() + 1:
        right = outcome.outputs.detach().argmax(2) == y
        stats["accuracy"] = right.flatten(1).to(stats["loss"].dtype).mean(1)
    return stats

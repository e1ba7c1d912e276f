"""The reference: plain autograd through the whole adaptation."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import path as loop
from ..core import trees
from ..core.contract import (
    Estimator,
    Learner,
    MetaGradientFunction,
    Objective,
    OuterWeights,
    Path,
    Refused,
)
from ..core.types import MetaGradient, Params, Task
from .memory import remembered


class Unrolled(Estimator):
    """The exact meta-gradient of any learner; memory grows with the number of inner steps.

    Source: Finn et al. 2017, algorithm 1.
    """

    def on(self, learner: Learner, objective: Objective) -> MetaGradientFunction:
        path = learner.offer(Path)  # type: ignore[type-abstract]
        objective.bind(learner)
        if isinstance(path, Path):
            return _Unrolling(learner, objective, path)
        if loop.trajectory(learner) is not None:
            raise Refused(
                f"`Unrolled` cannot differentiate `{type(learner).__name__}`: {path.reason}. "
                f"{path.fix}."
            )

        def at_once(meta: Params, tasks: Task, weights: OuterWeights) -> MetaGradient:
            if weights.steps is not None:
                raise Refused(
                    f"`{type(learner).__name__}` adapts at once and has no losses at every step. "
                    "Use an objective without step weights, such as `Query(loss)`."
                )
            with torch.enable_grad():
                point = learner.adapt(meta, tasks.support)
                outcome = objective.losses(learner, meta, point, tasks)
                losses = weights.of(outcome.losses, point.t, last=True)
                grads = trees.gradient(losses, meta)
            stats = loop.summary(objective, outcome, tasks)
            stats |= learner.health(trees.detach(meta), point, tasks.support)
            return MetaGradient(losses.detach().sum(), grads, stats)

        return at_once

    def describe(self) -> str:
        return "unrolled"


class _Unrolling:
    """The loop over a path with its whole graph."""

    def __init__(self, learner: Learner, objective: Objective, path: Path):
        self.learner, self.objective, self.path = learner, objective, path

    def __call__(self, meta: Params, tasks: Task, weights: OuterWeights) -> MetaGradient:
        learner, objective, path = self.learner, self.objective, self.path
        by_step = weights.by_step()
        early: Tensor | float = 0.0
        with torch.enable_grad():
            for point in loop.unrolling(path, meta, tasks.support):
                if weights.steps is not None and 0 < point.t < path.steps:
                    found = objective.losses(learner, meta, point, tasks).losses
                    early = early + by_step.of(found, point.t, last=False)
            outcome = objective.losses(learner, meta, point, tasks)
            losses = early + by_step.of(outcome.losses, point.t, last=True)
            weighted = losses if weights.tasks is None else losses * weights.tasks
            grads = trees.gradient(weighted, meta)
        stats = loop.summary(objective, outcome._replace(losses=losses), tasks)
        end = point._replace(phi=trees.detach(point.phi), state=trees.detach(point.state))
        stats |= learner.health(trees.detach(meta), end, tasks.support)
        return MetaGradient(weighted.detach().sum(), grads, stats, remembered(learner, end))

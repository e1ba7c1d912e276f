"""Reptile: the way to the adapted weights in place of a gradient."""

from __future__ import annotations

import torch

from ..core import path as loop
from ..core import trees
from ..core.contract import (
    Estimator,
    Learner,
    MetaGradientFunction,
    Objective,
    OuterWeights,
    Path,
)
from ..core.types import MetaGradient, Params, Task
from .memory import remembered


class Reptile(Estimator):
    """The direction phi_0 - phi_K in place of a gradient; no derivative of the query loss.

    Descending it with rate eps is theta + eps (phi_K - theta). The query set is only scored. A
    persistent solver state (inner Adam) is averaged over the tasks and handed back as `memory`.

    Source: Nichol et al. 2018, algorithm 2 (batched version).
    """

    needs = Path

    def on(self, learner: Learner, objective: Objective) -> MetaGradientFunction:
        path = self.seen(learner, Path)  # type: ignore[type-abstract]
        objective.bind(learner)

        def direction(meta: Params, tasks: Task, weights: OuterWeights) -> MetaGradient:
            self.look_at_the_end(weights)
            fixed = trees.detach(meta)
            begin = loop.begin(path, fixed, tasks.support)
            end = loop.last(path, fixed, tasks.support)
            with torch.no_grad():
                outcome = objective.losses(learner, fixed, end, tasks)
            gap = {k: begin.phi[k] - v for k, v in end.phi.items()}
            losses = outcome.losses
            if weights.tasks is not None:
                gap = {k: v * trees.rows(weights.tasks, v) for k, v in gap.items()}
                losses = losses * weights.tasks
            with torch.enable_grad():
                phi = path.start(meta, tasks.support).phi
                grads = trees.pull(phi.values(), meta, [gap.get(k) for k in phi])
            stats = loop.summary(objective, outcome, tasks)
            stats |= learner.health(fixed, end, tasks.support)
            return MetaGradient(losses.sum(), grads, stats, remembered(learner, end))

        return direction

    def describe(self) -> str:
        return "Reptile"

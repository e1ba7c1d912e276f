"""Reptile: move towards the adapted weights."""

from __future__ import annotations

import torch

from ..core import path as loop
from ..core import trees
from ..core.contract import Estimator, IterativeLearner, Learner, Outcome
from ..core.types import MetaGradient, Params, Task
from .sweep import pull_start


class Reptile(Estimator):
    """The direction phi_0 - phi_K in place of a gradient; no derivative of the query loss.

    Descending it with rate eps is theta + eps (phi_K - theta). The query set is only scored. A
    persistent solver state (inner Adam) is averaged over the tasks and handed back as `memory`.

    Source: Nichol et al. 2018, algorithm 2 (batched version).
    """

    needs = IterativeLearner
    remembers = True

    def __call__(self, learner: Learner, meta: Params, tasks: Task) -> MetaGradient:
        assert isinstance(learner, IterativeLearner)
        fixed = trees.detach(meta)
        with torch.no_grad():
            begin = learner.start(fixed, tasks.support)
            end = loop.last(learner, fixed, tasks.support)
            outcome = learner.outer(fixed, end.phi, tasks)
        direction = {k: begin[k] - v for k, v in end.phi.items()}
        grads = pull_start(learner, meta, tasks.support, direction)
        stats = loop.summary(Outcome(*outcome), tasks)
        stats |= loop.health(learner, fixed, end, tasks.support)
        memory = {k: v.sum(0) for k, v in end.state.items()} if learner.persistent else {}
        return MetaGradient(outcome.losses.sum(), grads, stats, memory)

    def describe(self) -> str:
        return "Reptile"

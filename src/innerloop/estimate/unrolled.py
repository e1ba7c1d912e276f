"""The reference: plain autograd through the whole adaptation."""

from __future__ import annotations

import torch

from ..core import loop, trees
from ..core.contract import Estimator, IterativeLearner, Learner
from ..core.types import MetaGradient, Params, Task


class Unrolled(Estimator):
    """The exact meta-gradient of any learner; memory grows with the number of inner steps.

    Source: Finn et al. 2017, algorithm 1.
    """

    def __call__(self, learner: Learner, meta: Params, tasks: Task) -> MetaGradient:
        with torch.enable_grad():
            phi = learner.adapt(meta, tasks.support)
            outcome = learner.outer(meta, phi, tasks)
            grads = trees.gradient(outcome.losses, meta)
        stats = loop.summary(outcome, tasks)
        if isinstance(learner, IterativeLearner):
            end = loop.Point(learner.steps, trees.detach(phi), {})
            stats |= loop.health(learner, trees.detach(meta), end, tasks.support)
        return MetaGradient(outcome.losses.detach().sum(), grads, stats)

    def describe(self) -> str:
        return "unrolled"

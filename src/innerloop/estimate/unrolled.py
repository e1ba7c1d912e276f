"""The reference: plain autograd through the whole adaptation."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import path as loop
from ..core import trees
from ..core.contract import Estimator, IterativeLearner, Learner, Outcome
from ..core.types import MetaGradient, Params, Task


class Unrolled(Estimator):
    """The exact meta-gradient of any learner; memory grows with the number of inner steps.

    Source: Finn et al. 2017, algorithm 1.
    """

    every_step = True

    def __call__(self, learner: Learner, meta: Params, tasks: Task) -> MetaGradient:
        weights = learner.outer_weights() if isinstance(learner, IterativeLearner) else None
        with torch.enable_grad():
            if weights is None:
                phi = learner.adapt(meta, tasks.support)
                outcome = learner.outer(meta, phi, tasks)
            else:
                phi, outcome = _every_step(learner, meta, tasks, weights)
            grads = trees.gradient(outcome.losses, meta)
        stats = loop.summary(outcome, tasks)
        if isinstance(learner, IterativeLearner):
            end = loop.Point(learner.steps, trees.detach(phi), {})
            stats |= loop.health(learner, trees.detach(meta), end, tasks.support)
        return MetaGradient(outcome.losses.detach().sum(), grads, stats)

    def describe(self) -> str:
        return "unrolled"


def _every_step(
    learner: Learner, meta: Params, tasks: Task, weights: Tensor
) -> tuple[Params, Outcome]:
    """phi_K, and its outcome with the losses sum_t w_t L(phi_t)."""
    assert isinstance(learner, IterativeLearner)
    steps = loop.unrolling(learner, meta, tasks.support)
    next(steps)  # phi_0 has no outer loss
    losses: Tensor | float = 0.0
    for weight, phi in zip(weights, steps, strict=True):
        outcome = learner.outer(meta, phi, tasks)
        losses = losses + weight * outcome.losses
    assert isinstance(losses, Tensor)
    return phi, outcome._replace(losses=losses)

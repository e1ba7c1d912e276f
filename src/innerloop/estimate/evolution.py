"""Evolution strategies: the meta-gradient from function values alone, for every learner."""

from __future__ import annotations

import torch

from ..core import path as loop
from ..core import streams, trees
from ..core.contract import Estimator, IterativeLearner, Learner
from ..core.types import MetaGradient, Params, Task


class EvolutionStrategies(Estimator):
    """The antithetic estimate of the gradient of the Gaussian-smoothed meta-objective.

    G = 1/(2 sigma n) sum_j [f(meta + sigma e_j) - f(meta - sigma e_j)] e_j,  e_j ~ N(0, I),
    f = outer after adaptation. `pairs` n; the variance falls as 1/n. Directions come from the
    stream of the call's seed, and every task and both members of a pair share random numbers.

    Source: Song et al. 2020 (ES-MAML), algorithm 2 with antithetic sampling.
    """

    recordable = False
    end_only = True

    def __init__(self, *, sigma: float = 0.1, pairs: int = 16):
        if not sigma > 0:
            raise ValueError(f"expected sigma > 0 (a length in weight space), got {sigma!r}")
        if pairs < 1:
            raise ValueError(f"expected pairs >= 1, got {pairs!r}")
        self.sigma = sigma
        self.pairs = pairs

    @torch.no_grad()
    def __call__(self, learner: Learner, meta: Params, tasks: Task) -> MetaGradient:
        moved = {k: v for k, v in meta.items() if v.requires_grad}
        total = trees.zeros_like(trees.detach(moved))
        for pair in range(self.pairs):
            noise = self._noise(pair, moved)
            gap = torch.zeros((), dtype=next(iter(moved.values())).dtype)
            for sign in (1.0, -1.0):
                there = meta | {k: v + sign * self.sigma * noise[k] for k, v in moved.items()}
                phi = learner.adapt(there, tasks.support)
                gap = (
                    gap.to(tasks.query.x.device)
                    + sign * learner.outer(there, phi, tasks).losses.sum()
                )
            for k, v in noise.items():
                total[k].add_(gap / (2 * self.sigma * self.pairs) * v)
        phi = learner.adapt(meta, tasks.support)
        outcome = learner.outer(meta, phi, tasks)
        stats = loop.summary(outcome, tasks)
        if isinstance(learner, IterativeLearner):
            end = loop.Point(learner.steps, phi, {})
            stats |= loop.health(learner, meta, end, tasks.support)
        return MetaGradient(outcome.losses.sum(), total, stats)

    def _noise(self, pair: int, like: Params) -> Params:
        """Drawn on the CPU, so that every device sees the same directions."""
        stream = streams.generator(streams.current(), "evolution", pair)
        return {
            k: torch.randn(v.shape, generator=stream, dtype=v.dtype, device="cpu").to(v.device)
            for k, v in like.items()
        }

    def describe(self) -> str:
        return f"evolution strategies, {self.pairs} pairs, sigma {self.sigma:g}"

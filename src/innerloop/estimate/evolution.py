"""Evolution strategies: the meta-gradient from function values alone, for every learner."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import path as loop
from ..core import streams, trees
from ..core.contract import (
    Estimator,
    Learner,
    MetaGradientFunction,
    Objective,
    Outcome,
    OuterWeights,
    Point,
    Refusal,
)
from ..core.types import MetaGradient, Params, Task
from .memory import remembered


class EvolutionStrategies(Estimator):
    """The antithetic estimate of the gradient of the Gaussian-smoothed meta-objective.

    G = 1/(2 sigma n) sum_j [f(meta + sigma e_j) - f(meta - sigma e_j)] e_j,  e_j ~ N(0, I),
    f = outer after adaptation. `pairs` n; the variance falls as 1/n. Directions come from the
    stream of the call's seed, and every task and both members of a pair share random numbers.

    Source: Song et al. 2020 (ES-MAML), algorithm 2 with antithetic sampling.
    """

    def __init__(self, *, sigma: float = 0.1, pairs: int = 16):
        if not sigma > 0:
            raise ValueError(f"expected sigma > 0 (a length in weight space), got {sigma!r}")
        if pairs < 1:
            raise ValueError(f"expected pairs >= 1, got {pairs!r}")
        self.sigma = sigma
        self.pairs = pairs

    def on(self, learner: Learner, objective: Objective) -> MetaGradientFunction:
        objective.bind(learner)

        def value(meta: Params, tasks: Task) -> tuple[Point, Outcome]:
            point = learner.adapt(meta, tasks.support)
            return point, objective.losses(learner, meta, point, tasks)

        @torch.no_grad()
        def estimate(meta: Params, tasks: Task, weights: OuterWeights) -> MetaGradient:
            self.look_at_the_end(weights)
            moved = {k: v for k, v in meta.items() if v.requires_grad}
            # A view of a tensor that wants a gradient says that it wants one, even here.
            meta = trees.detach(meta)
            total = trees.zeros_like(trees.detach(moved))
            for pair in range(self.pairs):
                noise = self._noise(pair, moved)
                gap: Tensor | float = 0.0
                for sign in (1.0, -1.0):
                    there = meta | {k: v + sign * self.sigma * noise[k] for k, v in moved.items()}
                    losses = value(there, tasks)[1].losses
                    gap = gap + sign * weights.of(losses, 0, last=True).sum()
                for k, v in noise.items():
                    total[k].add_(gap / (2 * self.sigma * self.pairs) * v)
            point, outcome = value(meta, tasks)
            stats = loop.summary(objective, outcome, tasks)
            stats |= learner.health(meta, point, tasks.support)
            loss = weights.of(outcome.losses, point.t, last=True).sum()
            return MetaGradient(loss, total, stats, remembered(learner, point))

        return estimate

    def program(self) -> Refusal | None:
        return Refusal("`EvolutionStrategies` draws random numbers", 'Use engine="eager"')

    def _noise(self, pair: int, like: Params) -> Params:
        """Drawn on the CPU, so that every device sees the same directions."""
        stream = streams.generator(streams.current(), "evolution", pair)
        return {
            k: torch.randn(v.shape, generator=stream, dtype=v.dtype, device="cpu").to(v.device)
            for k, v in like.items()
        }

    def describe(self) -> str:
        return f"evolution strategies, {self.pairs} pairs, sigma {self.sigma:g}"

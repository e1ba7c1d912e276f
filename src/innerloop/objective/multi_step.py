"""Outer losses after every inner step, annealed to the last one."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.checks import fraction
from ..core.contract import Objective
from .query import Wrapped


class MultiStep(Wrapped):
    """MAML++'s multi-step loss: sum_t w_t L_query(phi_t), t = 1 … K, of any objective.

    At fraction p of the run and r = p / until < 1:

        w_t = max((1 - r) / K, floor / K) for t < K,    w_K = 1 - (K - 1) w_1,

    uniform at first, nearly the last step alone at r = 1; from there on phi_K alone counts. p comes
    with each call as `progress`.

    The authors count whole epochs, `until` is 10 of 100 for them on Omniglot and 15 of 100 on
    miniImageNet; here r is continuous.

    Source: Antoniou et al. 2019 (MAML++), section 4 and code (for the weights).
    """

    def __init__(self, objective: Objective, *, until: float = 0.1, floor: float = 0.03):
        super().__init__(objective)
        if not 0 < until <= 1:
            raise ValueError(f"expected a fraction 0 < until <= 1 of the run, got until={until!r}")
        if not 0 <= floor <= 1:
            raise ValueError(f"expected a floor in [0, 1], in units of 1/K, got floor={floor!r}")
        self.until, self.floor = until, fraction("floor", floor)

    def weights(self, steps: int, progress: float) -> Tensor | None:
        if progress >= self.until or steps < 2:
            return None
        early = max(1 - progress / self.until, self.floor) / steps
        weights = torch.full((steps,), early, dtype=torch.float64)
        weights[-1] = 1 - (steps - 1) * early
        return weights

    def describe(self) -> str:
        return f"{self.objective.describe()}, multi-step"

    def extra_repr(self) -> str:
        return f"until={self.until:g}, floor={self.floor:g}"

"""Outer losses after every inner step, annealed to the last one."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MultiStep(nn.Module):
    """The weights of MAML++'s multi-step loss: L = sum_t w_t L_query(phi_t), t = 1 … K.

    At fraction p of the run and r = p / until < 1:

        w_t = max((1 - r) / K, floor / K) for t < K,    w_K = 1 - (K - 1) w_1,

    uniform at first, nearly the last step alone at r = 1; from there on phi_K alone counts.
    `Method.progress` tells p; until it is told, the run stands at its beginning. It belongs to one
    learner: `GradientLearner(..., multi_step=MultiStep())`.

    The authors count whole epochs, `until` is 10 of 100 for them on Omniglot and 15 of 100 on
    miniImageNet; here r is continuous.

    Source: Antoniou et al. 2019 (MAML++), section 4 and code (for the weights).
    """

    weights: Tensor

    def __init__(self, *, until: float = 0.1, floor: float = 0.03):
        super().__init__()
        if not 0 < until <= 1:
            raise ValueError(f"expected a fraction 0 < until <= 1 of the run, got until={until!r}")
        if not 0 <= floor <= 1:
            raise ValueError(f"expected a floor in [0, 1], in units of 1/K, got floor={floor!r}")
        self.until, self.floor = until, floor
        self.over = False
        # Not saved: they follow from how far the run is.
        self.register_buffer("weights", torch.zeros(0), persistent=False)

    def bind(self, steps: int, like: Tensor) -> None:
        """Make room for the weights of K = `steps` losses, in the type of `like`."""
        if len(self.weights) not in (0, steps):
            raise ValueError(
                f"this MultiStep weighs {len(self.weights)} steps of another learner, not {steps}; "
                "give each learner its own"
            )
        self.weights = torch.empty(steps, dtype=like.dtype, device=like.device)
        self.at_progress(0.0)

    @torch.no_grad()
    def at_progress(self, fraction: float) -> None:
        """Take the weights that belong to this fraction of the run."""
        self.over = fraction >= self.until
        steps = len(self.weights)
        if not self.over and steps:
            early = max(1 - fraction / self.until, self.floor) / steps
            self.weights.fill_(early)
            self.weights[-1] = 1 - (steps - 1) * early

    def extra_repr(self) -> str:
        return f"until={self.until:g}, floor={self.floor:g}"

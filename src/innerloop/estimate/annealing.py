"""Derivative-order annealing: cheap first-order gradients at first, exact ones later."""

from __future__ import annotations

from ..core.contract import (
    Estimator,
    Learner,
    MetaGradientFunction,
    Objective,
    Path,
    Refusal,
)
from .sweep import Adjoint, FirstOrder


class FirstOrderFirst(Estimator):
    """First order for the first `until` of a training, then `estimator` (`Adjoint()`).

    `until` is a fraction of the run, which comes with each call as `progress`. The paper switches
    after half of its epochs, the released configurations never use the first order.

    Source: Antoniou et al. 2019 (MAML++), section 4: derivative-order annealing.
    """

    needs = Path

    def __init__(self, estimator: Estimator | None = None, *, until: float = 0.5):
        if not 0 < until <= 1:
            raise ValueError(f"expected a fraction 0 < until <= 1 of the run, got until={until!r}")
        self.first = FirstOrder()
        self.then = estimator or Adjoint()
        self.until = until

    def at(self, progress: float) -> Estimator:
        return self.then.at(progress) if progress >= self.until else self.first

    def on(self, learner: Learner, objective: Objective) -> MetaGradientFunction:
        """That of the beginning of a training; both are refused where one of them is."""
        self.then.on(learner, objective)
        return self.first.on(learner, objective)

    def program(self) -> Refusal | None:
        return self.then.program()

    def describe(self) -> str:
        return f"first order until {self.until:.0%} of the run, then {self.then.describe()}"

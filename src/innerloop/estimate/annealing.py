"""Derivative-order annealing: cheap first-order gradients at first, exact ones later."""

from __future__ import annotations

from ..core.contract import Estimator, IterativeLearner, Learner
from ..core.types import MetaGradient, Params, Task
from .sweep import Adjoint, FirstOrder


class FirstOrderFirst(Estimator):
    """First order for the first `until` of a training, then `estimator` (`Adjoint()`).

    `until` is a fraction of the run, which `Method.progress` tells; until it is told, the run
    stands at its beginning. The paper switches after half of its epochs, the released
    configurations never use the first order.

    Source: Antoniou et al. 2019 (MAML++), section 4: derivative-order annealing.
    """

    needs = IterativeLearner

    def __init__(self, estimator: Estimator | None = None, *, until: float = 0.5):
        if not 0 < until <= 1:
            raise ValueError(f"expected a fraction 0 < until <= 1 of the run, got until={until!r}")
        self.first = FirstOrder()
        self.then = estimator or Adjoint()
        self.until = until
        self.recordable = self.then.recordable
        self.every_step = self.then.every_step
        self.exact = False

    def at_progress(self, fraction: float) -> None:
        """Take the order of derivatives that belongs to this fraction of the run."""
        self.exact = fraction >= self.until

    @property
    def phase(self) -> object:  # type: ignore[override]
        return self.exact, self.then.phase

    def __call__(self, learner: Learner, meta: Params, tasks: Task) -> MetaGradient:
        return (self.then if self.exact else self.first)(learner, meta, tasks)

    def refuse(self, learner: Learner) -> str | None:
        return self.first.refuse(learner) or self.then.refuse(learner)

    def describe(self) -> str:
        return f"first order until {self.until:.0%} of the run, then {self.then.describe()}"

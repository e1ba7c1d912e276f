"""What a method says in the log: each thing seldom, since training repeats it every step."""

from __future__ import annotations

import logging
from collections import Counter

from torch import Tensor

from .types import Params

log = logging.getLogger("innerloop")


class Notices:
    """Counts what was said, so that it is not said at every step."""

    def __init__(self) -> None:
        self._told: Counter[str] = Counter()

    def once(self, message: str) -> None:
        self._told[message] += 1
        if self._told[message] == 1:
            log.warning(message)

    def health(self, stats: Params) -> None:
        """Log solves that did not converge: the result is then inexact."""
        if "inner_gap" in stats and not stats["inner_converged"].all():
            self._seldom(
                "the head's problem was not solved to the end for %d of %d tasks (largest duality "
                "gap %.3g); more damping makes it easier",
                stats["inner_converged"],
                stats["inner_gap"],
            )
        elif "inner_converged" in stats and not stats["inner_converged"].all():
            self._seldom(
                "%d of %d tasks did not reach the inner gradient tolerance (largest norm %.3g); "
                "allow more steps or a larger tolerance",
                stats["inner_converged"],
                stats["inner_gradient_norm"],
            )
        if "converged" in stats and not stats["converged"].all():
            self._seldom(
                "the linear solve did not converge for %d of %d tasks (largest relative residual "
                "%.3g); a larger penalty, or damping of the solver, makes it easier",
                stats["converged"],
                stats["residual"],
            )

    def _seldom(self, message: str, converged: Tensor, size: Tensor) -> None:
        """The first time, the tenth, the hundredth: every step's numbers are in `stats`."""
        self._told[message] += 1
        times = self._told[message]
        if times == 10 ** (len(str(times)) - 1):
            again = f" [{times} times by now]" if times > 1 else ""
            log.warning(message + again, int((~converged).sum()), len(converged), float(size.max()))

"""How long a run will still take."""

from __future__ import annotations

import time
from collections.abc import Callable

LONG = 3600.0
"""Seconds from which on a run says at its start how long it will take."""
_OFTEN = 1.0
"""The least seconds between two reports."""
_SURE_STEPS, _SURE_SECONDS = 5, 30.0
"""After so many steps, or so much time, an estimate is worth a warning."""


class Pace:
    """Seconds left, from the first step on.

    The first step may record or compile and says little; from the second on, the estimate is the
    mean since the end of the first, validations and checkpoints included.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._first = self._told = 0.0
        self._steps = 0
        self._warned = False

    def step(self) -> float:
        """Count a step; returns the seconds that one takes."""
        now = self._clock()
        self._steps += 1
        if self._steps == 1:
            self._first = now
            return now - self._began
        return (now - self._first) / (self._steps - 1)

    def due(self) -> bool:
        """Whether it is time for a report: after the first step, and then once a second."""
        now = self._clock()
        if self._steps > 1 and now - self._told < _OFTEN:
            return False
        self._told = now
        return True

    def warning(self, left: float) -> str | None:
        """Once and early, if it will take long: how long, and what to do."""
        elapsed = self._clock() - self._began
        sure = self._steps >= _SURE_STEPS or (self._steps > 1 and elapsed >= _SURE_SECONDS)
        if self._warned or not sure:
            return None
        self._warned = True
        if left < LONG:
            return None
        return (
            f"this run will take about {in_words(left)}. It can be stopped and resumed at any "
            "time; --train.minutes or --train.iterations end it sooner"
        )


def in_words(seconds: float) -> str:
    """A duration that a person can plan with: "40 minutes", "43 hours", "12 days"."""
    for unit, size in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}s"
    return f"{seconds:.0f} seconds"

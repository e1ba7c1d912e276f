"""Ranges of numbers, written as annotations: `lr: Annotated[float, Bound(low=0, open=True)]`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Bound:
    """The finite numbers with `low <= value <= high`, or `low < value` if `open`."""

    low: float = -math.inf
    high: float = math.inf
    open: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` is one of them."""
        above = value > self.low if self.open else value >= self.low
        return math.isfinite(value) and above and value <= self.high

    def __str__(self) -> str:
        sides = []
        if self.low > -math.inf:
            sides.append(f"{'above' if self.open else 'at least'} {self.low:g}")
        if self.high < math.inf:
            sides.append(f"at most {self.high:g}")
        return " and ".join(sides) or "finite"


Count = Annotated[int, Bound(low=0)]
Positive = Annotated[int, Bound(low=1)]
Rate = Annotated[float, Bound(low=0, open=True)]

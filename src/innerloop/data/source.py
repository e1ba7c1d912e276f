"""What every source of tasks offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch

from ..core.types import Batch, Task

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Spec:
    """The shape of one example.

    `x_shape` is the shape of one input, such as `(1, 28, 28)`; `outputs` is the number of classes
    of a task (its way) or the last dimension of a regression target.
    """

    kind: Literal["classification", "regression"]
    x_shape: tuple[int, ...]
    outputs: int

    def __post_init__(self) -> None:
        if self.kind not in ("classification", "regression"):
            raise ValueError(f"kind must be 'classification' or 'regression', got {self.kind!r}")
        if self.outputs < 1:
            raise ValueError(f"outputs must be at least 1, got {self.outputs}")


class Source(ABC):
    """An endless supply of tasks; every draw is a function of the generator passed in."""

    spec: Spec

    @abstractmethod
    def sample(self, generator: torch.Generator, n: int) -> Task:
        """`n` stacked tasks, on the source's device; the generator alone decides which."""

    def rows(self, generator: torch.Generator, n: int, first: int, stop: int) -> Task:
        """Tasks `first` to `stop` of those that `sample` draws: what one of several ranks takes.

        Raises ValueError for a source that makes one batch of all its tasks.
        """
        tasks = self.sample(generator, n)
        if len(tasks.support.x) != n:
            raise ValueError(
                f"{type(self).__name__} makes one batch of its {n} tasks, which ranks cannot "
                "share; expected one process: --workers 1"
            )
        return Task(*(Batch(b.x[first:stop], b.y[first:stop]) for b in tasks))

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Name, way, shot, queries, split, sizes: what a result must say about its data."""


@dataclass(frozen=True)
class Splits:
    """Three sources whose classes (or task distributions) are kept apart."""

    train: Source
    validation: Source
    test: Source

"""What every source of tasks offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

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
    """An endless supply of tasks; every draw is a function of the generator passed in.

    `groups` names the groups that tasks are drawn from, each as likely as any other (alphabets,
    bins of an amplitude); it is empty where tasks have no group.
    """

    spec: Spec
    groups: tuple[str, ...] = ()

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

    def task_groups(self, generator: torch.Generator, n: int) -> Tensor:
        """Which of `groups` each of the next `n` tasks comes from, int64 (n,).

        Those that `sample` draws with the generator as it stands, and as it is left standing.
        Raises ValueError where tasks have no group.
        """
        raise ValueError(
            f"the tasks of {type(self).__name__} have no groups; draw the classes of each task "
            "from one group (data.within_alphabet, data.within_script or data.within_group "
            "= true), or use data.kind=sine_groups"
        )

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Name, way, shot, queries, split, sizes: what a result must say about its data."""


@dataclass(frozen=True)
class Splits:
    """Three sources whose classes (or task distributions) are kept apart.

    `auxiliary` gives labelled examples of lasting classes beside the training tasks, one batch per
    draw, for methods with a discriminator (DEML).
    """

    train: Source
    validation: Source
    test: Source
    auxiliary: Source | None = None

    @property
    def trained_outputs(self) -> int:
        """Outputs of what is trained: the lasting classes where there are some, else a task's."""
        return (self.auxiliary or self.train).spec.outputs

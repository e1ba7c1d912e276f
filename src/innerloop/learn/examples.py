"""Which support examples an inner step sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from ..core import streams
from ..core.checks import whole
from ..core.contract import Learner, Point
from ..core.types import Batch, Params, columns, examples, leaf


class StepExamples(ABC):
    """The examples of step t. The same call gives the same examples: steps are replayed."""

    @abstractmethod
    def at(self, learner: Learner, meta: Params, point: Point, support: Batch) -> Batch:
        """The examples of the step from this point, for all tasks."""

    @abstractmethod
    def describe(self) -> str:
        """The choice in a few words."""


class MiniBatches(StepExamples):
    """Shuffled mini-batches of `size`, without replacement until all were seen (Reptile).

    Source: Nichol et al. 2018, the authors' code.
    """

    def __init__(self, size: int):
        self.size = whole("size of mini-batches", size)

    def at(self, learner: Learner, meta: Params, point: Point, support: Batch) -> Batch:
        n = examples(support)
        if self.size >= n:
            return support
        first, stop = point.t * self.size, (point.t + 1) * self.size
        passes = [
            torch.randperm(
                n, generator=streams.generator(streams.current(), "minibatch", epoch), device="cpu"
            )
            for epoch in range(first // n, (stop - 1) // n + 1)
        ]
        chosen = torch.cat(passes)[first % n :][: self.size].to(leaf(support.x).device)
        return columns(support, chosen)

    def describe(self) -> str:
        return f"mini-batches of {self.size}"


class InOrder(StepExamples):
    """`size` examples after another in the order in which they stand, round and round.

    With size 1 a learner reads its support set like a stream, one example per step.
    """

    def __init__(self, size: int = 1):
        self.size = whole("size of a step's examples", size)

    def at(self, learner: Learner, meta: Params, point: Point, support: Batch) -> Batch:
        n = examples(support)
        first = point.t * self.size
        chosen = torch.arange(first, first + self.size, device=leaf(support.x).device) % n
        return columns(support, chosen)

    def describe(self) -> str:
        return f"{self.size} examples per step, in order"


class Collected(StepExamples):
    """Examples that a function collects with the weights of the step, held constant (rollouts).

    `function(learner, meta, point, support) -> Batch`; it must give the same at the same point,
    e.g. by drawing from `innerloop.core.streams`.
    """

    def __init__(self, function: Any):
        self.function = function

    def at(self, learner: Learner, meta: Params, point: Point, support: Batch) -> Batch:
        with torch.no_grad():
            found = self.function(learner, meta, point, support)
        if not isinstance(found, Batch):
            raise ValueError(f"expected a Batch of examples, got {type(found).__name__}")
        return found

    def describe(self) -> str:
        return f"examples collected by {getattr(self.function, '__name__', 'a function')}"

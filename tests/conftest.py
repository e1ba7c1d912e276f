"""Small methods and sources that the evaluation tests share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import innerloop
from innerloop import Batch, Method, Task
from innerloop.data.source import Source, Spec
from innerloop.evaluate import EvaluationResult


class Blobs(Source):
    """Images (1, 6, 6) whose class is a random pattern of the task, plus noise."""

    def __init__(self, way: int = 3, shot: int = 1, queries: int = 4) -> None:
        self.way, self.shot, self.queries = way, shot, queries
        self.spec = Spec("classification", (1, 6, 6), way)

    def sample(self, generator: torch.Generator, n: int) -> Task:
        pattern = torch.rand(n, self.way, 1, 1, 6, 6, generator=generator, dtype=torch.float64)
        each = self.shot + self.queries
        noise = torch.rand(n, self.way, each, 1, 6, 6, generator=generator, dtype=torch.float64)
        x = 0.6 * pattern + 0.4 * noise
        y = torch.arange(self.way).view(1, -1, 1).expand(n, -1, each)

        def batch(part: slice) -> Batch:
            return Batch(x[:, :, part].flatten(1, 2), y[:, :, part].flatten(1, 2))

        return Task(batch(slice(None, self.shot)), batch(slice(self.shot, None)))

    def describe(self) -> dict[str, str]:
        return {"source": "blobs", "way": str(self.way), "queries": str(self.queries)}


def small_net(way: int = 3, seed: int = 0, channels: int = 1, norm: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()]
    if not norm:
        del layers[1]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, way)).double()


@pytest.fixture
def blobs() -> Blobs:
    return Blobs()


@pytest.fixture
def maml() -> Method:
    return innerloop.methods.maml(small_net(), lr=0.5, steps=2)


@pytest.fixture
def make_result() -> Callable[..., EvaluationResult]:
    """A result with these values (S+1, tasks); other fields can be replaced."""

    def make(values: list[list[float]], **fields: object) -> EvaluationResult:
        given = {
            "metric": "accuracy",
            "larger_is_better": fields.get("metric", "accuracy") == "accuracy",
            "values": np.array(values, dtype=float),
            "method": {"method": "maml", "norm": "batch"},
            "source": {"source": "blobs", "queries": "4"},
            "seed": 0,
            "stream": "test",
            "batch": 16,
            "seconds": 2.0,
            "device": "cpu",
            "torch_version": "2",
            "created": "2026-01-01T00:00:00+00:00",
            "digest": "d",
        }
        return EvaluationResult(**{**given, **fields})  # type: ignore[arg-type]

    return make


def right(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs.argmax(-1) == y).double().mean(-1)

"""The rows of the speed benchmark: a network, its tasks, and how MAML adapts it.

Pictures are made up: a random pattern per class plus noise, so that adaptation has something to
learn; what they show changes neither time nor memory. Seeds and rates of the Omniglot rows are such
that float32 and float64 put every unit on the same side of its ReLU: where they do not, one unit
moves the gradient of its task by up to a percent, in all engines alike. With the 10^8 units of
`mini` some always do, and its errors are those jumps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from innerloop import Batch, Task
from innerloop.core.streams import generator
from innerloop.data.values.synthetic import Sine
from innerloop.models import Conv4, mini_imagenet_conv4, mlp, resnet12, transformer

NOISE = 3.0
"""Of a picture, relative to its class's pattern: hard enough that 40 steps do not end at zero."""


class Unavailable(Exception):
    """An engine that cannot run here; the text says what is missing."""


@dataclass(frozen=True)
class Row:
    """`model()` and `tasks()` draw from seed 0; `lr` and `steps` are the inner loop's."""

    name: str
    about: str
    model: Callable[[], nn.Module]
    tasks: Callable[[], Task]
    lr: float
    steps: int = 1
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"

    def describe(self) -> str:
        """All that a measurement of this row depends on, in words."""
        return f"{self.about}; inner rate {self.lr:g}, steps {self.steps}, {self.loss}"


def pictures(
    tasks: int, shot: int, queries: int = 15, *, shape: tuple[int, ...] = (1, 28, 28), seed: int = 0
) -> Task:
    """5-way tasks of made-up pictures."""
    draws = generator(seed, "pictures")
    patterns = torch.randn(tasks, 5, *shape, generator=draws)

    def batch(per_class: int) -> Batch:
        y = torch.arange(5).repeat_interleave(per_class)
        clean = patterns[:, y]
        noise = NOISE * torch.randn(clean.shape, generator=draws)
        return Batch(clean + noise, y.expand(tasks, -1).contiguous())

    return Task(batch(shot), batch(queries))


def tokens(tasks: int, shot: int, queries: int = 15, *, vocabulary: int, length: int) -> Task:
    """5-way tasks of made-up sentences: every class has frequent and rare tokens of its own."""
    draws = generator(0, "tokens")
    odds = torch.randn(tasks, 5, vocabulary, generator=draws).exp()

    def batch(per_class: int) -> Batch:
        rows = odds.repeat_interleave(per_class, 1).flatten(0, 1)
        x = torch.multinomial(rows, length, replacement=True, generator=draws)
        y = torch.arange(5).repeat_interleave(per_class)
        return Batch(x.view(tasks, -1, length), y.expand(tasks, -1).contiguous())

    return Task(batch(shot), batch(queries))


def sines(tasks: int) -> Task:
    """Sine waves, 10 support and 10 query points."""
    return Sine(shot=10, queries=10).sample(generator(0, "sines"), tasks)


_PHOTO = (3, 84, 84)
ROWS = {
    row.name: row
    for row in (
        Row(
            "sine",
            "MLP 1-40-40-1, 25 tasks, 10 + 10 points, 1 step",
            partial(mlp, 1, 1, (40, 40)),
            partial(sines, 25),
            0.01,
            loss="mse",
        ),
        Row(
            "omni1",
            "Conv4-64 with strides, 28², 5-way 1-shot + 15 queries per class, 32 tasks, 1 step",
            partial(Conv4, 5),
            partial(pictures, 32, 1, seed=2),
            0.4,
        ),
        Row(
            "omni5",
            "the same net, 5-way 5-shot + 15 queries per class, 8 tasks, 5 steps",
            partial(Conv4, 5),
            partial(pictures, 8, 5),
            0.03,
            steps=5,
        ),
        Row(
            "mini",
            "Conv4-32 with max-pool, 84² x 3, 5-way 5-shot + 15 queries per class, 2 tasks, "
            "5 steps",
            partial(mini_imagenet_conv4, 5),
            partial(pictures, 2, 5, shape=_PHOTO),
            0.01,
            steps=5,
        ),
        Row(
            "deep",
            "the net of omni1, 5-way 5-shot + 15 queries per class, 1 task, 40 steps",
            partial(Conv4, 5),
            partial(pictures, 1, 5, seed=6),
            0.03,
            steps=40,
        ),
        Row(
            "transformer",
            "transformer of 2 pre-norm blocks, width 64, 4 heads; sentences of 32 words out of 64, "
            "5-way 5-shot + 15 queries per class, 8 tasks, 3 steps",
            partial(transformer, 5, tokens=64, length=32),
            partial(tokens, 8, 5, vocabulary=64, length=32),
            0.1,
            steps=3,
        ),
        Row(
            "resnet12",
            "ResNet-12, 84² x 3, 5-way 1-shot + 5 queries per class, 1 task, 1 step",
            partial(resnet12, 5, drop=0.0),
            partial(pictures, 1, 1, 5, shape=_PHOTO),
            0.05,
        ),
    )
}

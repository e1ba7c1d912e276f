"""How good a method is on the same few tasks each time: what picks the best weights of a run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..core import streams
from ..core.types import Params, Task
from ..data.source import Source, Splits
from .baseline import Trainable
from .ranks import Ranks

NAMES = {"classification": "accuracy", "regression": "mse"}


def measure(kind: str, outputs: Tensor, y: Tensor) -> tuple[str, Tensor]:
    """The name and the value per task of what counts: ("accuracy", ...) or ("mse", ...).

    `outputs` is (..., T, n, classes) for classification, (..., T, n, d) for regression, `y` the
    targets (T, n) or (T, n, d); the values are (..., T).
    """
    if kind == "classification":
        return NAMES[kind], (outputs.argmax(-1) == y).float().mean(-1)
    return NAMES[kind], (outputs - y).square().flatten(outputs.dim() - y.dim() + 1).mean(-1)


def unadapted(method: Trainable, splits: Splits, tasks: Task) -> Params:
    """Accuracy (or mse) of training tasks without adaptation, (T,); {} where outputs differ."""
    if splits.train.spec != splits.validation.spec:
        return {}
    kind = splits.train.spec.kind
    name, value = measure(kind, method.query_outputs(tasks, 0), tasks.query.y)
    return {f"{name}_before": value[0]}


class GivenUp(Exception):
    """A validation that was told to stop on the way: there is no score."""


def validate(
    method: Trainable,
    source: Source,
    *,
    seed: int,
    tasks: int,
    batch: int,
    steps: int | None,
    ranks: Ranks,
    go_on: Callable[[int], bool] = lambda done: True,
) -> dict[str, float]:
    """Mean accuracy (or mean squared error) before and after adaptation, over fixed tasks.

    Also `score`: the value after adaptation, signed so that larger is better. Ranks take whole
    batches in turn, so that the numbers are those of one rank to the bit. `go_on(done)` is asked
    before every batch, with the number of tasks that are done.

    Raises:
        GivenUp: `go_on` has said no, on any of the ranks.
    """
    values = torch.zeros(2, tasks, dtype=torch.float64)
    name = NAMES[source.spec.kind]
    stopped = torch.zeros(1)
    for start in range(ranks.rank * batch, tasks, ranks.size * batch):
        if not go_on(start):
            stopped += 1
            break
        stream = streams.generator(seed, "validation", start)
        drawn = source.sample(stream, min(batch, tasks - start))
        torch.manual_seed(streams.derive(seed, "validation", start, "step"))
        outputs = method.query_outputs(drawn, steps)
        _, value = measure(source.spec.kind, outputs, drawn.query.y)
        values[:, start : start + batch] = value[[0, -1]]
    ranks.add_up(stopped)
    if stopped:
        raise GivenUp
    ranks.add_up(values)
    before, after = values.mean(1).tolist()
    sign = 1.0 if name == "accuracy" else -1.0
    return {f"{name}_before": before, name: after, "score": sign * after}

"""How good a method is on the same few tasks each time: what picks the best weights of a run."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import streams
from ..data.source import Source
from .baseline import Trainable


def measure(kind: str, outputs: Tensor, y: Tensor) -> tuple[str, Tensor]:
    """The name and the value per task of what counts: ("accuracy", ...) or ("mse", ...).

    `outputs` is (..., T, n, classes) for classification, (..., T, n, d) for regression, `y` the
    targets (T, n) or (T, n, d); the values are (..., T).
    """
    if kind == "classification":
        return "accuracy", (outputs.argmax(-1) == y).float().mean(-1)
    return "mse", (outputs - y).square().flatten(outputs.dim() - y.dim() + 1).mean(-1)


def validate(
    method: Trainable, source: Source, *, seed: int, tasks: int, batch: int, steps: int | None
) -> dict[str, float]:
    """Mean accuracy (or mean squared error) before and after adaptation, over fixed tasks.

    Also `score`: the value after adaptation, signed so that larger is better.
    """
    values = []
    for start in range(0, tasks, batch):
        stream = streams.generator(seed, "validation", start)
        drawn = source.sample(stream, min(batch, tasks - start))
        torch.manual_seed(streams.derive(seed, "validation", start, "step"))
        outputs = method.query_outputs(drawn, steps)
        name, value = measure(source.spec.kind, outputs, drawn.query.y)
        values.append(value[[0, -1]])
    before, after = torch.cat(values, dim=1).double().mean(1).tolist()
    sign = 1.0 if name == "accuracy" else -1.0
    return {f"{name}_before": before, name: after, "score": sign * after}

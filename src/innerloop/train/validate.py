"""How good a method is on the same few tasks each time: what picks the best weights of a run."""

from __future__ import annotations

import torch

from ..core import streams
from ..core.types import Params, Task, Tree, mapped
from ..data.source import Source, Splits
from .baseline import Trainable
from .ranks import Ranks


def unadapted(method: Trainable, splits: Splits, tasks: Task) -> Params:
    """The metric of training tasks without adaptation, (T,); {} where outputs differ."""
    if splits.train.spec != splits.validation.spec:
        return {}
    metric = method.objective.metric
    outputs = _at(method.query_outputs(tasks, 0), 0)
    return {f"{metric.name}_before": metric.value(outputs, tasks.query).float()}


def validate(
    method: Trainable,
    source: Source,
    *,
    seed: int,
    tasks: int,
    batch: int,
    steps: int | None,
    ranks: Ranks,
) -> dict[str, float]:
    """Mean of the objective's metric before and after adaptation, over fixed tasks.

    Also `score`: the value after adaptation, signed so that larger is better. Ranks take whole
    batches in turn, so that the numbers are those of one rank to the bit.
    """
    values = torch.zeros(2, tasks, dtype=torch.float64)
    metric = method.objective.metric
    for start in range(ranks.rank * batch, tasks, ranks.size * batch):
        stream = streams.generator(seed, "validation", start)
        drawn = source.sample(stream, min(batch, tasks - start))
        torch.manual_seed(streams.derive(seed, "validation", start, "step"))
        outputs = method.query_outputs(drawn, steps)
        for row, step in enumerate((0, -1)):
            values[row, start : start + batch] = metric.value(_at(outputs, step), drawn.query)
    ranks.add_up(values)
    before, after = values.mean(1).tolist()
    sign = 1.0 if metric.larger_is_better else -1.0
    return {f"{metric.name}_before": before, metric.name: after, "score": sign * after}


def _at(outputs: Tree, step: int) -> Tree:
    """Outputs (T, n, ...) after one of the steps of (S+1, T, n, ...)."""
    return mapped(lambda v: v[step], outputs)

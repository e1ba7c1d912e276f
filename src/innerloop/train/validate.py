"""How good a method is on the same few tasks each time: what picks the best weights of a run."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..core import streams
from ..core.types import Params, Task, Tree, mapped
from ..data.source import Source, Splits, Tasks
from .baseline import Trainable
from .ranks import Ranks


def unadapted(method: Trainable, splits: Splits, tasks: Tasks) -> Params:
    """The metric of training tasks without adaptation, (T,); {} where outputs differ."""
    if splits.train.spec != splits.validation.spec:
        return {}
    return {f"{method.objective.metric.name}_before": _scores(method, tasks, 0)[0].float()}


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
    """Mean of the objective's metric before and after adaptation, over fixed tasks.

    Also `score`: the value after adaptation, signed so that larger is better. Ranks take whole
    batches in turn, so that the numbers are those of one rank to the bit. `go_on(done)` is asked
    before every batch, with the number of tasks that are done.

    Raises:
        GivenUp: `go_on` has said no, on any of the ranks.
    """
    values = torch.zeros(2, tasks, dtype=torch.float64)
    metric = method.objective.metric
    stopped = torch.zeros(1)
    for start in range(ranks.rank * batch, tasks, ranks.size * batch):
        if not go_on(start):
            stopped += 1
            break
        stream = streams.generator(seed, "validation", start)
        drawn = source.tasks(stream, min(batch, tasks - start))
        torch.manual_seed(streams.derive(seed, "validation", start, "step"))
        values[:, start : start + batch] = _scores(method, drawn, steps)
    ranks.add_up(stopped)
    if stopped:
        raise GivenUp
    ranks.add_up(values)
    before, after = values.mean(1).tolist()
    sign = 1.0 if metric.larger_is_better else -1.0
    return {f"{metric.name}_before": before, metric.name: after, "score": sign * after}


def _scores(method: Trainable, tasks: Tasks, steps: int | None) -> torch.Tensor:
    """The metric before and after adaptation, (2, T); tasks of a list one after another."""
    if not isinstance(tasks, Task):
        return torch.cat([_scores(method, task, steps) for task in tasks], 1)
    metric, outputs = method.objective.metric, method.query_outputs(tasks, steps)
    return torch.stack([metric.value(_at(outputs, step), tasks.query) for step in (0, -1)])


def _at(outputs: Tree, step: int) -> Tree:
    """Outputs (T, n, ...) after one of the steps of (S+1, T, n, ...)."""
    return mapped(lambda v: v[step], outputs)

"""Tasks in chunks: the only switch between a loop over tasks and one fused batch."""

from __future__ import annotations

import torch

from ..core import trees
from ..core.contract import Estimator, Learner
from ..core.types import Batch, MetaGradient, Params, Task


def split(tasks: Task, chunk: int) -> list[Task]:
    """The tasks, `chunk` at a time, as views."""
    n = len(tasks.support.x)
    return [rows(tasks, first, first + chunk) for first in range(0, n, chunk)]


def rows(tasks: Task, first: int, stop: int) -> Task:
    support, query = tasks
    return Task(
        Batch(support.x[first:stop], support.y[first:stop]),
        Batch(query.x[first:stop], query.y[first:stop]),
    )


def mean_gradient(
    estimator: Estimator, learner: Learner, meta: Params, tasks: Task, chunk: int
) -> MetaGradient:
    """Loss and gradient averaged over all tasks, `chunk` tasks at a time; stats concatenated."""
    total: MetaGradient | None = None
    stats: list[Params] = []
    for part in split(tasks, chunk):
        found = estimator(learner, meta, part)
        stats.append(found.stats)
        if total is None:
            # Own storage: a gradient may be a view of something else, and is added to in place.
            own = (
                {k: v.clone() for k, v in found.grads.items()}
                if chunk < len(tasks.support.x)
                else found.grads
            )
            total = MetaGradient(found.loss, own, {}, found.memory)
        else:
            _accumulate(total.grads, found.grads)
            total = MetaGradient(
                total.loss + found.loss, total.grads, {}, trees.merge(total.memory, found.memory)
            )
    assert total is not None
    n = len(tasks.support.x)
    return MetaGradient(
        total.loss / n,
        {k: v / n for k, v in total.grads.items()},
        {k: torch.cat([s[k] for s in stats]) for k in stats[0]},
        {k: v / n for k, v in total.memory.items()},
    )


def _accumulate(total: Params, found: Params) -> None:
    for k, v in found.items():
        if k in total:
            total[k].add_(v)
        else:
            total[k] = v.clone()

"""Tasks in chunks: the only switch between a loop over tasks and one fused batch."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ..core import trees
from ..core.contract import Learner
from ..core.types import Batch, MetaGradient, Params, Task


def split(tasks: Task, chunk: int) -> list[Task]:
    """The tasks, `chunk` at a time, as views."""
    n = len(tasks.support.x)
    if n <= chunk:
        return [tasks]
    return [rows(tasks, first, first + chunk) for first in range(0, n, chunk)]


def rows(tasks: Task, first: int, stop: int) -> Task:
    support, query = tasks
    return Task(
        Batch(support.x[first:stop], support.y[first:stop]),
        Batch(query.x[first:stop], query.y[first:stop]),
    )


def mean_gradient(
    estimator: Callable[[Learner, Params, Task], MetaGradient],
    learner: Learner,
    meta: Params,
    tasks: Task,
    chunk: int,
    *,
    threads: int = 1,
) -> MetaGradient:
    """Loss and gradient averaged over all tasks, `chunk` tasks at a time; stats concatenated.

    With more than one thread the chunks are shared out among them, each thread running its own one
    after another: for estimators that keep their hands off the modules (a recorded one).
    """
    parts = split(tasks, chunk)
    threads = min(threads, len(parts))

    def summed(share: list[Task]) -> MetaGradient:
        return _summed(estimator(learner, meta, part) for part in share)

    if len(parts) == 1:
        total = estimator(learner, meta, tasks)
    elif threads == 1:
        total = summed(parts)
    else:
        bounds = [len(parts) * i // threads for i in range(threads + 1)]
        shares = [parts[a:b] for a, b in itertools.pairwise(bounds)]
        total = _summed(_together(summed, shares))
    share = 1 / len(tasks.support.x)
    return MetaGradient(
        total.loss * share, _scaled(total.grads, share), total.stats, _scaled(total.memory, share)
    )


def _scaled(tree: Params, factor: float) -> Params:
    return (
        dict(zip(tree, torch._foreach_mul(list(tree.values()), factor), strict=True))
        if tree
        else {}
    )


def _summed(found: Iterable[MetaGradient]) -> MetaGradient:
    """Sums of losses, gradients and memory in this order; stats one behind the other."""
    loss: Tensor | float = 0.0
    grads: Params = {}
    memory: Params = {}
    stats: list[Params] = []
    for part in found:
        loss = loss + part.loss
        for k, v in part.grads.items():
            if k in grads:
                grads[k].add_(v)
            else:
                # Own storage: a gradient may be a view of something else.
                grads[k] = v.clone()
        memory = trees.merge(memory, part.memory)
        stats.append(part.stats)
    assert isinstance(loss, Tensor)
    return MetaGradient(
        loss, grads, {k: torch.cat([s[k] for s in stats]) for k in stats[0]}, memory
    )


def _together(
    work: Callable[[list[Task]], MetaGradient], shares: list[list[Task]]
) -> list[MetaGradient]:
    """`work` on every share at once, each in a thread whose operations use one core."""
    with single_threaded():
        return list(_pool(len(shares)).map(work, shares))


@contextlib.contextmanager
def single_threaded(wanted: bool = True) -> Iterator[None]:
    """Within the block operations use one core: tasks are what runs in parallel."""
    cores = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(cores)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


if hasattr(os, "register_at_fork"):  # a fork has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)

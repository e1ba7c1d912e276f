"""Tasks in chunks: the only switch between a loop over tasks and one fused batch."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ..core import trees
from ..core.contract import MetaGradientFunction, OuterWeights
from ..core.types import MetaGradient, Params, Task, count, rows


def split(tasks: Task, chunk: int) -> list[Task]:
    """The tasks, `chunk` at a time, as views."""
    n = count(tasks)
    if n <= chunk:
        return [tasks]
    return [rows(tasks, slice(first, first + chunk)) for first in range(0, n, chunk)]


def mean_gradient(
    function: MetaGradientFunction,
    meta: Params,
    parts: Sequence[Task],
    weights: OuterWeights,
    *,
    threads: int = 1,
) -> MetaGradient:
    """Loss and gradient averaged over the tasks of all parts; stats one behind the other.

    `weights.tasks` belongs to all tasks in their order. With more than one thread the parts are
    shared out among them, each thread running its own one after another: for functions that keep
    their hands off the modules (a recorded one).
    """
    threads = min(threads, len(parts))
    ends = list(itertools.accumulate(map(count, parts)))

    def one(i: int) -> MetaGradient:
        own = weights.tasks
        if own is not None and len(parts) > 1:
            own = own[ends[i] - count(parts[i]) : ends[i]]
        return function(meta, parts[i], OuterWeights(weights.steps, own))

    def summed(share: Sequence[int]) -> MetaGradient:
        return _summed(one(i) for i in share)

    if len(parts) == 1:
        total = one(0)
    elif threads == 1:
        total = summed(range(len(parts)))
    else:
        bounds = [len(parts) * i // threads for i in range(threads + 1)]
        shares = [range(a, b) for a, b in itertools.pairwise(bounds)]
        total = _summed(_together(summed, shares))
    share = 1 / ends[-1]
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
    work: Callable[[Sequence[int]], MetaGradient], shares: Sequence[Sequence[int]]
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

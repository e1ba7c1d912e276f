"""Which tasks run together: those of one shape, in chunks that suit the machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ..core.contract import Network
from ..core.types import Task, concat, count, examples, leaf, leaves, mapped, shapes

FUSED = 2**25
"""Multiply-adds of one task's forward pass up to which a CPU runs all tasks as one batch."""

SHARED_OUT = 2**20
"""Input values of a task up to which a recorded engine runs several tasks at once on a CPU."""

Tasks = Task | Sequence[Task]
"""Stacked tasks, or a sequence of them that may have different shapes."""


def grouped(tasks: Tasks, check: Callable[[Task], Task]) -> tuple[list[Task], Tensor | None]:
    """Tasks of one shape stacked together, and where each task stands among them.

    None in place of the order where they are stacked already. Every task goes through `check`.
    """
    if isinstance(tasks, Task):
        return [check(tasks)], None
    if not isinstance(tasks, Sequence) or not tasks:
        raise ValueError(
            f"expected innerloop.Task(support=Batch(x, y), query=Batch(x, y)), or a list of "
            f"them, got {type(tasks).__name__}"
        )
    alike: dict[Any, list[int]] = {}
    checked = [check(cast(Task, task)) for task in tasks]
    for i, task in enumerate(checked):
        alike.setdefault(shapes(mapped(lambda v: v[:0], task)), []).append(i)
    groups = [concat([checked[i] for i in members]) for members in alike.values()]
    sizes = [count(task) for task in checked]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    stacked = [
        place
        for members in alike.values()
        for i in members
        for place in range(starts[i], starts[i] + sizes[i])
    ]
    device = leaf(groups[0].support.x).device
    return groups, torch.tensor(stacked, device=device).argsort()


def chunk_size(
    calls: Sequence[Network],
    tasks: Task,
    wanted: int | Literal["auto"],
    say: Callable[[str], None],
) -> int:
    """How many of these tasks run at once; `say` is told where that is not what was wanted."""
    x = leaf(tasks.support.x)
    reason = next((call.unbatchable for call in calls if not call.batchable), None)
    if reason is not None:
        if wanted not in (1, "auto"):
            say(f"tasks run one after another (chunk=1): {reason}")
        return 1
    if wanted != "auto":
        return int(wanted)
    # A rule, not a stopwatch: resuming bit for bit must not depend on what the machine did.
    convolutional = any(call.convolutional for call in calls)
    size = sum(call.size for call in calls)
    whole = convolutional or not x.is_floating_point()
    rows = x[0].numel() if whole else examples(tasks.support)
    large = convolutional or size * rows > FUSED
    return 1 if large and x.device.type == "cpu" else len(x)


def thread_count(tasks: Task) -> int:
    """Threads that share tasks; large tasks run one after another, at the memory of one."""
    values = sum(math.prod(v.shape[1:]) for batch in tasks for v in leaves(batch.x))
    small = values < SHARED_OUT and leaf(tasks.support.x).device.type == "cpu"
    return torch.get_num_threads() if small else 1

"""Scoring a method on many tasks, after each inner step."""

from __future__ import annotations

import datetime
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..core import streams
from ..core.types import Batch, Task
from ..data.source import Source
from .result import EvaluationResult

logger = logging.getLogger(__name__)

ENOUGH_TASKS = 600
"""The number of test tasks in the MAML papers; fewer give intervals too wide to compare with."""


class Evaluable(Protocol):
    """What can be scored: a `Method`, or a baseline with the same two functions."""

    def query_outputs(self, tasks: Task, steps: int | None = None) -> Tensor:
        """Query outputs (S+1, T, n, ...) before adaptation and after each of S inner steps."""
        ...

    def describe(self) -> dict[str, str]:
        """Names of the pieces and the normalisation policy."""
        ...


def evaluate(
    method: Evaluable,
    source: Source,
    tasks: int = ENOUGH_TASKS,
    *,
    steps: int | None = None,
    seed: int = 0,
    batch: int = 16,
    stream: str = "test",
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Score of `method` on `tasks` tasks of `source`, before and after each inner step.

    Task i is drawn from `streams.generator(seed, stream, i)`: the same tasks for every method and
    every `batch` (the number of tasks that run together). Classification is scored by accuracy,
    regression by the mean squared error over a task's queries. An output that is not finite counts
    as wrong. `progress(done, tasks)` is called after each batch.

    Raises: ValueError if `tasks`, `batch` or `steps` is out of range, or the outputs do not have
    the shape that the labels ask for.
    """
    _check_counts(tasks, batch, steps)
    if tasks < ENOUGH_TASKS and stream == "test":
        logger.warning(
            "%d tasks: intervals will be wide; published numbers use at least %d",
            tasks,
            ENOUGH_TASKS,
        )
    device = device_of(method)
    metric = "accuracy" if source.spec.kind == "classification" else "mse"
    digest = hashlib.blake2b(digest_size=16)
    parts: list[np.ndarray] = []
    bad: list[Tensor] = []
    seconds = 0.0
    for first, task in draw_tasks(source, tasks, batch=batch, seed=seed, stream=stream):
        _update_digest(digest, task)
        task = to_device(task, device)
        began = time.perf_counter()
        # Whatever is random inside (dropout) is a function of the seed and the task, too.
        with streams.common(seed), streams.replay("evaluate", first, device=task.query.x.device):
            outputs = method.query_outputs(task, steps).cpu()
        parts.append(score(outputs, task.query.y.cpu(), metric).numpy())
        bad.append(~outputs.isfinite().flatten(2).all(2))
        seconds += time.perf_counter() - began
        if progress is not None:
            progress(min(first + batch, tasks), tasks)
    _warn_if_not_finite(torch.cat([row[-1] for row in bad]))
    return EvaluationResult(
        metric=metric,
        larger_is_better=metric == "accuracy",
        values=np.concatenate(parts, axis=1),
        method=dict(method.describe()),
        source=dict(source.describe()),
        seed=seed,
        stream=stream,
        batch=batch,
        seconds=seconds,
        device=_device_name(device),
        torch_version=str(torch.__version__),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        digest=digest.hexdigest(),
    )


def draw_tasks(
    source: Source, tasks: int, *, batch: int = 16, seed: int = 0, stream: str = "test"
) -> Iterator[tuple[int, Task]]:
    """The test tasks 0..tasks-1 in stacks of at most `batch`, with the index of the first."""
    for first in range(0, tasks, batch):
        last = min(first + batch, tasks)
        yield (
            first,
            stack(
                [source.sample(streams.generator(seed, stream, i), 1) for i in range(first, last)]
            ),
        )


def stack(tasks: list[Task]) -> Task:
    """One stacked task out of several, along the task axis."""
    support = Batch(
        torch.cat([task.support.x for task in tasks]), torch.cat([task.support.y for task in tasks])
    )
    query = Batch(
        torch.cat([task.query.x for task in tasks]), torch.cat([task.query.y for task in tasks])
    )
    return Task(support, query)


def to_device(task: Task, device: torch.device | None) -> Task:
    """The task on `device`; None leaves it where it is."""
    if device is None:
        return task
    return Task(*(Batch(part.x.to(device), part.y.to(device)) for part in task))


def device_of(method: Evaluable) -> torch.device | None:
    """Where the parameters of the method are; None when it is not a module or has none."""
    if not isinstance(method, nn.Module):
        return None
    parameter = next(method.parameters(), None)
    return None if parameter is None else parameter.device


def score(outputs: Tensor, y: Tensor, metric: str) -> Tensor:
    """Scores (S+1, T) of outputs (S+1, T, n, classes, ...) or (S+1, T, n, d) for labels y.

    Raises: ValueError if the shapes do not belong together.
    """
    if metric == "accuracy":
        if outputs.ndim != y.ndim + 2 or (*outputs.shape[1:3], *outputs.shape[4:]) != y.shape:
            raise ValueError(
                f"query_outputs has shape {tuple(outputs.shape)} for labels {tuple(y.shape)}: "
                "expected (steps + 1, tasks, queries, classes, ...), queries as in the labels."
            )
        finite = outputs.isfinite().all(3)
        right = (outputs.argmax(3) == y) & finite
        return right.double().flatten(2).mean(2)
    if outputs.shape[1:] != y.shape:
        raise ValueError(
            f"query_outputs has shape {tuple(outputs.shape)} for targets {tuple(y.shape)}: "
            "expected (steps + 1, *targets)."
        )
    return (outputs.double() - y.double()).square().flatten(2).mean(2)


def _check_counts(tasks: int, batch: int, steps: int | None) -> None:
    for name, value, least in (("tasks", tasks, 1), ("batch", batch, 1), ("steps", steps, 0)):
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")


def _update_digest(digest: hashlib.blake2b, task: Task) -> None:
    tensors = [_as_integers(tensor) for part in task for tensor in part]
    for i in range(tensors[0].shape[0]):
        for tensor in tensors:
            digest.update(tensor[i].numpy().tobytes())


def _as_integers(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        # Coarse on purpose: another device may round the last bit of a sample differently.
        tensor = torch.round(tensor.detach().double() * 256).nan_to_num().clamp(-(2**52), 2**52)
    return tensor.to("cpu", torch.int64).contiguous()


def _warn_if_not_finite(bad: Tensor) -> None:
    if bad.any():
        logger.warning(
            "the outputs of %d of %d tasks are not finite after adaptation (first: task %d) and "
            "count as wrong; the inner loop diverges: use fewer steps or a smaller rate",
            int(bad.sum()),
            bad.numel(),
            int(bad.nonzero()[0]),
        )


def _device_name(device: torch.device | None) -> str:
    if device is not None and device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{'cpu' if device is None else device.type} ({torch.get_num_threads()} threads)"

"""Scoring a method on many tasks, after each inner step."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..core import streams
from ..core.contract import Metric, Objective
from ..core.types import Batch, Task, Tree, concat, leaf, leaves, mapped, shapes, to
from ..data.source import Source, as_source
from .result import EvaluationResult

logger = logging.getLogger(__name__)

ENOUGH_TASKS = 600
"""The number of test tasks in the MAML papers; fewer give intervals too wide to compare with."""


class Evaluable(Protocol):
    """What can be scored: a `Method`, or a baseline with the same three things."""

    @property
    def objective(self) -> Objective:
        """What it is scored by: its metric."""
        ...

    def query_outputs(self, tasks: Task, steps: int | None = None) -> Tensor:
        """Query outputs (S+1, T, n, ...) before adaptation and after each of S inner steps."""
        ...

    def describe(self) -> dict[str, str]:
        """Names of the pieces and the normalisation policy."""
        ...


def evaluate(
    method: Evaluable,
    source: Source | Sequence[Task],
    tasks: int = ENOUGH_TASKS,
    *,
    steps: int | None = None,
    seed: int = 0,
    batch: int = 16,
    stream: str = "test",
    metric: Metric | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Score of `method` on `tasks` tasks of `source`, before and after each inner step.

    Task i is drawn from `streams.generator(seed, stream, i)`: the same tasks for every method and
    every `batch` (the number of tasks that run together). The score is the metric of the method's
    objective, or `metric`. An output that is not finite counts as wrong in an accuracy. A list of
    tasks is a source as well, of any shapes. `progress(done, tasks)` is called after each batch.

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
    source = as_source(source)
    device = device_of(method)
    metric = metric or method.objective.metric
    digest = hashlib.blake2b(digest_size=16)
    parts: list[np.ndarray] = []
    bad: list[Tensor] = []
    seconds = 0.0
    for first, task in draw_tasks(source, tasks, batch=batch, seed=seed, stream=stream):
        _update_digest(digest, task)
        task = to(task, device)
        began = time.perf_counter()
        # Whatever is random inside (dropout) is a function of the seed and the task, too.
        with (
            streams.common(seed),
            streams.replay("evaluate", first, device=leaf(task.query.x).device),
        ):
            outputs = to(method.query_outputs(task, steps), "cpu")
        query = to(task.query, "cpu")
        parts.append(score(outputs, query, metric).numpy())
        bad.append(~torch.stack([v.isfinite().flatten(2).all(2) for v in leaves(outputs)]).all(0))
        seconds += time.perf_counter() - began
        if progress is not None:
            progress(min(first + batch, tasks), tasks)
    _warn_if_not_finite(torch.cat([row[-1] for row in bad]))
    return EvaluationResult(
        metric=metric.name,
        larger_is_better=metric.larger_is_better,
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
    """The test tasks 0..tasks-1 in stacks of at most `batch`, with the index of the first.

    A stack ends early where the shape of a task changes.
    """
    for first in range(0, tasks, batch):
        last = min(first + batch, tasks)
        drawn = [source.sample(streams.generator(seed, stream, i), 1) for i in range(first, last)]
        for _, alike in itertools.groupby(drawn, key=shapes):
            together = list(alike)
            yield first, concat(together)
            first += len(together)


def device_of(method: Evaluable) -> torch.device:
    """Where the parameters of the method are; the CPU when it is not a module or has none."""
    if not isinstance(method, nn.Module):
        return torch.device("cpu")
    parameter = next(method.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def score(outputs: Tree, query: Batch, metric: Metric) -> Tensor:
    """Scores (S+1, T) in float64 of outputs (S+1, T, n, ...) on a query set (T, n, ...).

    Raises: ValueError if the shapes do not belong together.
    """
    wide, labels = to(outputs, torch.float64), to(query, torch.float64)
    steps = len(leaf(wide))
    try:
        values = [metric.value(at_step(wide, s), labels) for s in range(steps)]
        return torch.stack(values).double()
    except RuntimeError as error:
        raise ValueError(
            f"query_outputs has shape {tuple(leaf(outputs).shape)} for labels "
            f"{tuple(leaf(query.y).shape)}, and the metric {metric.name} cannot compare them: "
            f"{str(error).splitlines()[0]}"
        ) from error


def at_step(outputs: Tree, step: int) -> Tree:
    """Outputs (T, n, ...) after one of the steps of (S+1, T, n, ...)."""
    return mapped(lambda v: v[step], outputs)


def _check_counts(tasks: int, batch: int, steps: int | None) -> None:
    for name, value, least in (("tasks", tasks, 1), ("batch", batch, 1), ("steps", steps, 0)):
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")


def _update_digest(digest: hashlib.blake2b, task: Task) -> None:
    tensors = [_as_integers(tensor) for tensor in leaves(task)]
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


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({torch.get_num_threads()} threads)"

"""Boundary checks: once, where data enters, with what was expected, what came, and what to do."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

from .types import Batch, Task

_RECORDING: ContextVar[bool] = ContextVar("innerloop_recording", default=False)


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Within the block tensors are being recorded: their values must not be asked for."""
    token = _RECORDING.set(True)
    try:
        yield
    finally:
        _RECORDING.reset(token)


def readable(x: Tensor) -> bool:
    """Whether values may be looked at: not while recording, and elsewhere than on the CPU it would
    stall every step."""
    return x.device.type == "cpu" and not _RECORDING.get() and not torch.compiler.is_compiling()


def tasks(value: Task, kind: str) -> None:
    """Refuse a task batch that cannot be right. Values are read on the CPU only."""
    if not isinstance(value, Task):
        raise ValueError(
            f"expected innerloop.Task(support=Batch(x, y), query=Batch(x, y)), got "
            f"{type(value).__name__}"
        )
    for name, batch in zip(("support", "query"), value, strict=True):
        _batch(name, batch)
    support, query = value
    if len(support.x) != len(query.x):
        raise ValueError(
            f"support holds {len(support.x)} tasks and query {len(query.x)} (axis 0 of x); both "
            "must stack the same tasks"
        )
    if support.x.shape[2:] != query.x.shape[2:]:
        raise ValueError(
            f"one example has shape {tuple(support.x.shape[2:])} in the support set and "
            f"{tuple(query.x.shape[2:])} in the query set; they must be equal"
        )
    if kind == "classification":
        classes(support.y)


def classes(y: Tensor) -> None:
    """At least two classes in the support set of every task."""
    if y.is_floating_point() or y.device.type != "cpu" or y.dim() < 2:
        return
    flat = y.flatten(1)
    alone = (flat.amax(1) == flat.amin(1)).nonzero().flatten()
    if len(alone):
        raise ValueError(
            f"the support set of task {int(alone[0])} holds one class only "
            f"({int(flat[alone[0], 0])}); give examples of at least two classes"
        )


def _batch(name: str, batch: Batch) -> None:
    x, y = batch
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        raise ValueError(
            f"expected tensors in {name}, got x {type(x).__name__} and y {type(y).__name__}"
        )
    if x.dim() < 2 or y.dim() < 2:
        raise ValueError(
            f"{name} needs a leading task axis: expected x (T, n, ...) and y (T, n, ...), got x "
            f"{tuple(x.shape)} and y {tuple(y.shape)}; for one task use x[None], y[None]"
        )
    if x.shape[:2] != y.shape[:2]:
        raise ValueError(
            f"{name} x {tuple(x.shape)} and y {tuple(y.shape)} disagree in axis 0 (tasks) or "
            "axis 1 (examples)"
        )
    if x.shape[0] == 0 or x.shape[1] == 0:
        raise ValueError(
            f"the {name} set is empty: x has shape {tuple(x.shape)} (tasks, examples, ...); give "
            "at least one example"
        )
    # The sum is one cheap pass; only where it overflows or is NaN are the values looked at singly.
    if x.device.type != "cpu" or not x.is_floating_point() or math.isfinite(float(x.sum())):
        return
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).sum())
        raise ValueError(f"{name} x holds {bad} values that are NaN or infinite; clean the data")


def dtype(x: Tensor, parameters: torch.dtype) -> None:
    """Inputs must have the weights' precision: a silent cast would hide a lossy one."""
    if x.is_floating_point() and x.dtype != parameters:
        raise ValueError(
            f"x is {x.dtype} but the model's weights are {parameters}; convert one of them, e.g. "
            f"x.to({parameters})"
        )

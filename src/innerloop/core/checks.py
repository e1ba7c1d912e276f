"""Boundary checks: once, where data enters, with what was expected, what came, and what to do."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import get_args

import torch
from torch import Tensor

from .types import Batch, Task, Tree, count, leaves, mapped, shapes

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


def positive(name: str, value: float) -> float:
    """`value` as a float; ValueError unless it is finite and above zero."""
    if isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"expected a finite {name} > 0, got {name}={value!r}")
    return float(value)


def whole(name: str, value: int, least: int = 1) -> int:
    """`value`; ValueError unless it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"expected a whole number {name} >= {least}, got {name}={value!r}")
    return value


def one_of(name: str, value: str, choices: object) -> None:
    """ValueError unless `value` is one of the words of a `Literal`."""
    if value not in get_args(choices):
        words = ", ".join(f'"{word}"' for word in get_args(choices))
        raise ValueError(f"unknown {name} {value!r}; use one of {words}")


def fraction(name: str, value: float, *, zero: bool = True) -> float:
    """`value`; ValueError unless it is a fraction, 0 to 1."""
    if not (0 <= value <= 1 if zero else 0 < value <= 1):
        least = "0 <=" if zero else "0 <"
        raise ValueError(f"expected a fraction {least} {name} <= 1, got {name}={value!r}")
    return value


def tasks(value: Task) -> None:
    """Refuse a task batch that cannot be right. Values are read on the CPU only."""
    if not isinstance(value, Task):
        raise ValueError(
            f"expected innerloop.Task(support=Batch(x, y), query=Batch(x, y)), got "
            f"{type(value).__name__}"
        )
    for name, batch in zip(("support", "query"), value, strict=True):
        _batch(name, batch)
    support, query = value
    if count(support.x) != count(query.x):
        raise ValueError(
            f"support holds {count(support.x)} tasks and query {count(query.x)} (axis 0 of x); "
            "both must stack the same tasks"
        )
    if shapes(support.x)[0] != shapes(query.x)[0]:
        raise ValueError(
            f"the inputs of support and query are trees of different structure: "
            f"{_told(support.x)} and {_told(query.x)}; they must be equal"
        )


def one_class(y: object) -> str | None:
    """What to say of a support set that holds one class only; None if there is none.

    No error: one class is what anomaly detection has. But it is more often a mistake.
    """
    if not isinstance(y, Tensor) or y.is_floating_point() or y.dim() != 2 or not readable(y):
        return None
    alone = (y.amax(1) == y.amin(1)).nonzero().flatten()
    if not len(alone):
        return None
    return (
        f"the support set of task {int(alone[0])} holds one class only "
        f"({int(y[alone[0], 0])}): it cannot tell classes apart"
    )


def _batch(name: str, batch: Batch) -> None:
    x, y, weight = batch
    flat = leaves(x)
    if not flat or (y is not None and not leaves(y)):
        raise ValueError(
            f"expected tensors in {name}, got x {type(x).__name__} and y {type(y).__name__}; "
            "convert arrays with torch.as_tensor"
        )
    _axes(name, x, y, flat)
    first = flat[0]
    if weight is not None and (weight.shape != first.shape[:2] or not weight.is_floating_point()):
        raise ValueError(
            f"expected a weight for each example of {name}, floating-point of shape "
            f"{tuple(first.shape[:2])} (tasks, examples), got {weight.dtype} of shape "
            f"{tuple(weight.shape)}"
        )
    if weight is not None and readable(weight):
        _counting(name, weight)
    for leaf in flat:
        _finite(name, leaf)


def _counting(name: str, weight: Tensor) -> None:
    """Weights are at least zero, and in every task some example counts."""
    if not (torch.isfinite(weight) & (weight >= 0)).all():
        raise ValueError(
            f"expected finite weights >= 0 of the examples of {name}, got values from "
            f"{float(weight.min()):g} to {float(weight.max()):g}"
        )
    idle = (weight.sum(1) == 0).nonzero().flatten()
    if len(idle):
        raise ValueError(
            f"all weights of the examples of {name} are zero in task {int(idle[0])}: a mean over "
            "nothing is no number; leave the task out, or let at least one example count"
        )


def _axes(name: str, x: Tree, y: Tree, flat: list[Tensor]) -> None:
    """Every leaf has the two leading axes (T, n), the same ones."""
    first = flat[0]
    others = leaves(y) if y is not None else []
    short = [v for v in (*flat, *others) if v.dim() < 2]
    if short:
        raise ValueError(
            f"{name} needs a leading task axis: expected x (T, n, ...) and y (T, n, ...), got x "
            f"{_told(x)} and y {_told(y)}; for one task use x[None], y[None]"
        )
    if any(v.shape[:2] != first.shape[:2] for v in (*flat, *others)):
        raise ValueError(
            f"{name} x {_told(x)} and y {_told(y)} disagree in axis 0 (tasks) or axis 1 (examples)"
        )
    if first.shape[0] == 0 or first.shape[1] == 0:
        raise ValueError(
            f"the {name} set is empty: x has shape {_told(x)} (tasks, examples, ...); give "
            "at least one example"
        )


def _finite(name: str, x: Tensor) -> None:
    # The sum is one cheap pass; only where it overflows or is NaN are the values looked at singly.
    x = x.detach()
    if not readable(x) or not x.is_floating_point() or math.isfinite(float(x.sum())):
        return
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).sum())
        raise ValueError(f"{name} x holds {bad} values that are NaN or infinite; clean the data")


def _told(tree: Tree) -> str:
    """The shapes of a tree, for a message."""
    if isinstance(tree, Tensor):
        return str(tuple(tree.shape))
    return str(mapped(lambda v: tuple(v.shape), tree))


def dtype(x: Tensor, parameters: torch.dtype) -> None:
    """Inputs must have the weights' precision: a silent cast would hide a lossy one."""
    dtypes([x], {parameters})


def dtypes(inputs: list[Tensor], parameters: set[torch.dtype]) -> None:
    """Floating-point inputs must have the precision of some of the weights.

    Which layer reads which input is not known; a type that none of them has cannot be right.
    """
    for x in inputs:
        if x.is_floating_point() and parameters and x.dtype not in parameters:
            told = " or ".join(sorted(map(str, parameters)))
            raise ValueError(
                f"x is {x.dtype} but the model's weights are {told}; convert one of them, e.g. "
                f"x.to({min(map(str, parameters))})"
            )

"""`innerloop.check`: can this model be meta-learned, and if not, which layer is in the way?"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..call.copies import copied
from ..call.model import differentiable_kernels
from ..core.types import Task
from ..objective.losses import Loss, LossLike, as_loss
from . import probes
from .advice import (
    batching_advice,
    forward_mode_advice,
    missing_second_derivative,
    wrong_second_derivative,
)
from .anatomy import module_rows, norm_rows, parameter_rows, wrapper_rows
from .layers import locate
from .probes import Target
from .report import CheckReport, Row
from .state import watched_rows, write_rows
from .subject import Subject, first_line, prepare
from .trace import Call, layer_label

TOLERANCE = 1e-3
"""Relative error above which a derivative counts as wrong; rounding stays far below."""


def check(
    model: nn.Module,
    loss: LossLike | Loss = "cross_entropy",
    example: Task | tuple[Tensor, Tensor] | None = None,
    *,
    norm: str | None = None,
) -> CheckReport:
    """Try `model` in everything that meta-learning does to it, and name the layer that fails.

    The model is run with other weights, differentiated twice in reverse mode, forward over reverse,
    and batched over tasks; derivatives are compared with finite differences in float64. `example`
    is a `Task` (its first task is used) or one task's `(x, y)`: x (n, ...), y (n, ...). `loss` and
    `norm` are what the method will get. Nothing of the model is changed. Raises ValueError if the
    example is missing or is not one; everything about the model is reported, not raised.
    """
    x, y = _example(example)
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected model to be an nn.Module, got {type(model).__name__}")
    resolved = as_loss(loss)
    rows = wrapper_rows(model)
    if _fine(rows):
        rows += norm_rows(model, norm)
    if _fine(rows):
        rows += module_rows(model)
    if _fine(rows):
        rows += parameter_rows(model)
    if _fine(rows):
        rows += _run(copied(model), resolved, x, y, norm)
    return CheckReport(type(model).__name__, tuple(rows))


def _fine(rows: list[Row]) -> bool:
    return all(row.ok for row in rows)


def _example(example: Any) -> tuple[Tensor, Tensor]:
    if example is None:
        raise ValueError("check needs an example to run: check(model, loss, example=(x, y))")
    if isinstance(example, Task):
        x, y, _ = example.support
        if x.dim() < 2 or y.dim() < 2:
            raise ValueError(
                f"a Task has a leading task axis: expected x (T, n, ...), got {tuple(x.shape)}"
            )
        x, y = x[0], y[0]
    elif isinstance(example, tuple) and len(example) == 2:
        x, y = example
    else:
        raise ValueError(f"example must be a Task or (x, y), got {type(example).__name__}")
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise ValueError(f"x and y must be tensors, got {type(x).__name__} and {type(y).__name__}")
    if x.dim() < 1 or len(x) == 0 or y.dim() < 1 or len(y) != len(x):
        raise ValueError(
            "expected x and y of one task with the same number of examples, at least 1, got "
            f"x {tuple(x.shape)} and y {tuple(y.shape)}"
        )
    return x, y


def _run(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, norm: str | None) -> list[Row]:
    device = next(model.parameters()).device
    x, y = x.to(device), y.to(device)
    rows = write_rows(model, x)
    if not _fine(rows):
        return rows
    told, subject = prepare(model, loss, x, y, norm)
    rows = told + rows
    if subject is None:
        return rows
    rows += watched_rows(subject.watched)
    with differentiable_kernels():
        rows += _derivative_rows(subject)
        if _fine(rows):
            rows += _transform_rows(subject)
    return rows


def _derivative_rows(subject: Subject) -> list[Row]:
    try:
        missing = probes.unused(subject.wide)
    except Exception as error:
        advice = "run `loss(model(x), y).backward()` by itself until it works"
        return [Row("gradient", False, "", first_line(error), advice)]
    if len(missing) == len(subject.wide.primals):
        advice = "leave out torch.no_grad(), .detach() and .item() on the way to the loss"
        return [Row("gradient", False, "", "the loss depends on no parameter", advice)]
    first = _gradient_row(subject, missing)
    wide = subject.wide.without(missing)
    second = _double_backward_row(replace(subject, wide=wide), surrogate=not _true(wide))
    return [first, second]


def _true(target: Target) -> bool:
    """Whether the gradient is the derivative of the value; taken for granted below float64."""
    return not target.exact or probes.slope_error(target) <= TOLERANCE


def _gradient_row(subject: Subject, missing: list[str]) -> Row:
    target = subject.wide
    names = ", ".join(missing[:3])
    if not _true(target):
        found = locate(subject.watched_wide, _when(probes.slope_error))
        detail, advice = "the gradient is not the derivative of the value", "fine if it is meant"
        if missing:
            detail = f"cuts off the gradient of {names}"
            advice = "if it is meant, freeze what lies before it: `p.requires_grad_(False)`"
        return Row("gradient", True, _where(found), detail, advice)
    if missing:
        detail = f"{len(missing)} of {len(target.primals)} parameter tensors do not reach the loss"
        advice = "they stay as they are; `p.requires_grad_(False)` says so"
        return Row("gradient", True, names, detail, advice)
    return Row("gradient", True, "", "reaches every parameter")


def _double_backward_row(subject: Subject, *, surrogate: bool) -> Row:
    """Run in the model's own precision, where other kernels may be chosen; compared in float64.

    `surrogate`: the gradient is that of something else than the value (straight-through), and so
    its own derivative cannot agree with finite differences.
    """
    aspect = "double backward"
    try:
        probes.double_backward(subject.native)
    except Exception as raised:
        found = locate(subject.watched, _raises(probes.double_backward))
        advice = missing_second_derivative(raised)
        return Row(aspect, False, _where(found), first_line(raised), advice)
    if not subject.wide.exact:
        return Row(aspect, True, "", "exists; not compared with finite differences")
    error = probes.curvature_error(subject.wide)
    if error <= TOLERANCE:
        return Row(aspect, True, "", f"agrees with finite differences to {error:.0e}")
    found = locate(subject.watched_wide, _when(probes.curvature_error))
    detail = f"the second derivative is off by {error:.0%} (finite differences, float64)"
    return Row(aspect, surrogate, _where(found), detail, wrong_second_derivative())


def _transform_rows(subject: Subject) -> list[Row]:
    """Forward mode and task batching: neither is needed, so a failure is a note."""
    forward = _transform("forward mode", probes.forward_mode, subject)
    batching = _transform("task batching", probes.task_batching, subject)
    if not (forward.advice or batching.advice):
        both = _transform("forward mode", probes.batched_forward_mode, subject)
        forward = both if both.advice else forward
    return [forward, batching]


def _transform(aspect: str, probe: Callable[[Target], float], subject: Subject) -> Row:
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            probe(subject.native)
            error = probe(subject.calm)
    except Exception as raised:
        found = locate(subject.watched, _raises(probe))
        detail, advice = first_line(raised), batching_advice(_module(found), raised)
    else:
        if error <= subject.calm.tolerance:
            told = f"agrees with plain reverse mode to {error:.0e}"
            looped = [str(w.message) for w in heard if "performance drop" in str(w.message)]
            if looped and aspect == "task batching":
                operator = looped[0].partition("batching rule for ")[2].partition(". ")[0]
                detail = f"{operator} has no batching rule and runs task by task"
                return Row(aspect, True, "", detail, "chunk=1 does the same with less around it")
            return Row(aspect, True, "", told)
        found = locate(subject.watched_wide, _when(probe))
        detail, advice = f"off by {error:.0%} from reverse mode", batching_advice(None, None)
    if aspect == "forward mode":
        advice = forward_mode_advice()
    return Row(aspect, True, _where(found), detail, advice)


def _raises(probe: Callable[[Target], Any]) -> Callable[[Target], str | None]:
    def fails(target: Target) -> str | None:
        try:
            probe(target)
        except Exception as error:
            return first_line(error)
        return None

    return fails


def _when(probe: Callable[[Target], float]) -> Callable[[Target], str | None]:
    def fails(target: Target) -> str | None:
        error = probe(target)
        return f"off by {error:.0%}" if error > TOLERANCE else None

    return fails


def _where(found: list[tuple[Call, str]]) -> str:
    names = list(dict.fromkeys(layer_label(call.name, call.module) for call, _ in found))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def _module(found: list[tuple[Call, str]]) -> nn.Module | None:
    return found[0][0].module if found else None

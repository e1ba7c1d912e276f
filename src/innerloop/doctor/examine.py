"""`innerloop.check`: can this model be meta-learned, and if not, which layer is in the way?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..core.types import Task
from ..learn.losses import Loss, LossLike, as_loss
from ..learn.model_call import differentiable_kernels
from . import probes
from .advice import batching_advice, double_backward_advice, forward_mode_advice
from .anatomy import module_rows, norm_rows, parameter_rows
from .layers import locate
from .probes import Target
from .report import CheckReport, Row
from .state import state_rows
from .subject import Subject, first_line, prepare
from .trace import Call, layer_label

TOLERANCE = 1e-3
"""Relative error above which a derivative counts as wrong. Rounding is far below, kinks are rare."""


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
    rows = module_rows(model) + (norm_rows(model) if norm is None else [])
    if all(row.ok for row in rows):
        rows += parameter_rows(model)
    if all(row.ok for row in rows):
        rows += _run(model, resolved, x, y, norm)
    return CheckReport(type(model).__name__, tuple(rows))


def _example(example: Any) -> tuple[Tensor, Tensor]:
    if example is None:
        raise ValueError("check needs an example to run: check(model, loss, example=(x, y))")
    if isinstance(example, Task):
        x, y = example.support
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
    rows, subject = prepare(model, loss, x.to(device), y.to(device), norm)
    if subject is None:
        return rows
    rows += state_rows(model, x.to(device), subject.watched)
    if not all(row.ok for row in rows):
        return rows
    with differentiable_kernels():
        rows.append(_gradient_row(subject))
        if rows[-1].ok:
            rows.append(_double_backward_row(subject))
        if rows[-1].ok:
            rows += _transform_rows(subject)
    return rows


def _gradient_row(subject: Subject) -> Row:
    target = subject.wide
    try:
        missing = probes.unused(target)
        wrong = target.exact and probes.slope_error(target) > TOLERANCE
    except Exception as error:
        advice = "run `loss(model(x), y).backward()` by itself until it works"
        return Row("gradient", False, "", first_line(error), advice)
    if len(missing) == len(target.primals):
        advice = "leave out torch.no_grad(), .detach() and .item() on the way to the loss"
        return Row("gradient", False, "", "the loss depends on no parameter", advice)
    if wrong:
        found = locate(subject.watched_wide, _when(probes.slope_error))
        detail = "the gradient is not the derivative of the value"
        return Row("gradient", True, _where(found), detail, "fine if meant (straight-through)")
    if missing:
        detail = f"{len(missing)} of {len(target.primals)} parameter tensors do not reach the loss"
        advice = "they stay as they are; `p.requires_grad_(False)` says so"
        return Row("gradient", True, ", ".join(missing[:3]), detail, advice)
    return Row("gradient", True, "", "reaches every parameter")


def _double_backward_row(subject: Subject) -> Row:
    """Run in the model's own precision, where other kernels may be chosen; compared in float64."""
    aspect = "double backward"
    try:
        probes.double_backward(subject.native)
    except Exception as raised:
        found = locate(subject.watched, _raises(probes.double_backward))
        advice = double_backward_advice(raised)
        return Row(aspect, False, _where(found), first_line(raised), advice)
    if not subject.wide.exact:
        return Row(aspect, True, "", "exists; not compared with finite differences")
    error = probes.curvature_error(subject.wide)
    if error <= TOLERANCE:
        return Row(aspect, True, "", f"agrees with finite differences to {error:.0e}")
    found = locate(subject.watched_wide, _when(probes.curvature_error))
    detail = f"the second derivative is off by {error:.0%} (finite differences, float64)"
    return Row(aspect, False, _where(found), detail, double_backward_advice(None))


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
        probe(subject.native)
        error = probe(subject.calm)
    except Exception as raised:
        found = locate(subject.watched, _raises(probe))
        detail, advice = first_line(raised), batching_advice(_module(found), raised)
    else:
        if error <= subject.calm.tolerance:
            return Row(aspect, True, "", f"agrees with plain reverse mode to {error:.0e}")
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

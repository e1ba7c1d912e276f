"""Losses: outputs (T, n, ...) and labels (T, n, ...) in, one mean loss per task (T,) out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from ..core import checks

Kind = Literal["classification", "regression"]
LossLike = str | Callable[..., Tensor]


class Loss:
    """A loss of stacked tasks. `kind` says whether labels are classes or values."""

    def __init__(self, name: str, kind: Kind, losses: Callable[[Tensor, Tensor], Tensor]):
        self.name = name
        self.kind: Kind = kind
        self._losses = losses

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        losses = self._losses(outputs, y)
        if not losses.is_floating_point():
            raise ValueError(
                f"the loss {self.name} returned {losses.dtype}, which has no gradient; return a "
                "floating-point tensor (is an accuracy used as the loss?)"
            )
        if losses.shape != outputs.shape[:1]:
            raise ValueError(
                f"the loss {self.name} gave shape {tuple(losses.shape[1:])} for one task, expected "
                "a scalar: average over the examples, e.g. with reduction='mean'"
            )
        return losses


def per_task(
    losses: Callable[[Tensor, Tensor], Tensor], kind: Kind = "regression", name: str | None = None
) -> Loss:
    """A loss that sees all tasks at once: (T, n, ...), (T, n, ...) -> (T,).

    For losses that differ from task to task, or that batch better by hand.
    """
    return Loss(name or _name(losses), kind, losses)


def as_loss(loss: LossLike | Loss) -> Loss:
    """A name, a `Loss`, or any callable of one task such as `nn.CrossEntropyLoss()`.

    Names: cross_entropy, bce (with logits), mse, l1, huber. A callable gets the outputs (n, ...)
    and labels (n, ...) of one task and returns a scalar.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        if loss not in _NAMED:
            raise ValueError(f"unknown loss {loss!r}; use one of {', '.join(_NAMED)} or a callable")
        return _NAMED[loss]
    if not callable(loss):
        raise ValueError(f"expected a loss name or a callable, got {type(loss).__name__}")
    if isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters()):
        raise ValueError(
            f"the loss {_name(loss)} has parameters of its own, which nobody would train; move "
            "them into the model"
        )
    bare = loss.func if isinstance(loss, partial) else loss
    classes = isinstance(bare, nn.CrossEntropyLoss | nn.NLLLoss | nn.MultiMarginLoss)
    classes = classes or bare in (F.cross_entropy, F.nll_loss)
    return Loss(_name(bare), "classification" if classes else "regression", _EachTask(loss))


@dataclass(frozen=True)
class _EachTask:
    """A loss of one task, for stacked ones."""

    loss: Callable[..., Tensor]

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        if len(outputs) == 1:
            return self.loss(outputs.squeeze(0), y.squeeze(0)).unsqueeze(0)
        return vmap(self.loss)(outputs, y)


def _name(loss: Any) -> str:
    return getattr(loss, "__name__", type(loss).__name__)


def _cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    """Outputs (T, n, C, ...), classes y (T, n, ...)."""
    if y.is_floating_point():
        raise ValueError(
            f"cross_entropy expects integer class labels, got y of {y.dtype}; "
            'convert with y.long(), or use loss="mse" for regression'
        )
    if outputs.dim() != y.dim() + 1 or outputs.shape[:2] != y.shape[:2]:
        raise ValueError(
            f"cross_entropy expects outputs (T, n, classes, ...) for labels (T, n, ...), got "
            f"outputs {tuple(outputs.shape)} and labels {tuple(y.shape)}"
        )
    if checks.readable(y):
        _in_range(y, outputs.shape[2])
    flat = F.cross_entropy(outputs.flatten(0, 1), y.flatten(0, 1).long(), reduction="none")
    return flat.reshape(y.shape).flatten(1).mean(1)


def _in_range(y: Tensor, classes: int) -> None:
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels run from {low} to {high}, but the model has {classes} outputs and so knows "
            f"the classes 0 to {classes - 1}: make the model {high + 1}-way or the tasks "
            f"{classes}-way"
        )


@dataclass(frozen=True)
class _Elementwise:
    """A loss of matching entries, averaged over each task."""

    function: Callable[..., Tensor]
    name: str

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        if outputs.shape != y.shape:
            raise ValueError(
                f"{self.name} expects labels of the outputs' shape, got outputs "
                f"{tuple(outputs.shape)} and labels {tuple(y.shape)} (T, n, ...); reshape y, e.g. "
                "y.unsqueeze(-1)"
            )
        return self.function(outputs, y.to(outputs.dtype), reduction="none").flatten(1).mean(1)


_NAMED = {
    "cross_entropy": Loss("cross_entropy", "classification", _cross_entropy),
    "bce": Loss("bce", "regression", _Elementwise(F.binary_cross_entropy_with_logits, "bce")),
    "mse": Loss("mse", "regression", _Elementwise(F.mse_loss, "mse")),
    "l1": Loss("l1", "regression", _Elementwise(F.l1_loss, "l1")),
    "huber": Loss("huber", "regression", _Elementwise(F.huber_loss, "huber")),
}

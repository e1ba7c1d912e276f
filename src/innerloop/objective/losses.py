"""Losses: outputs and labels (T, n, ...) in, one mean loss per task (T,) out, with its metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..core.contract import Metric
from ..core.types import Batch, Tree
from . import metrics
from .foreign import Foreign
from .metrics import IGNORED, as_metric, mean, prediction

Labels = Literal["classes", "values"]
Distance = Literal["kl", "squared"]
LossLike = str | Callable[..., Tensor]


class Loss:
    """A loss of stacked tasks: (outputs, batch) -> (T,).

    `labels` says whether labels are classes or values, where that is known; heads that are solved
    ask for it. `distance` is how two outputs of this loss are compared ("kl" of the softmax,
    "squared"), for targets that are outputs. `metric` is what is reported and what the best weights
    are chosen by: the loss itself, where no other is known. `each` gives the losses of single
    examples (T, n), for losses that have them.
    """

    def __init__(
        self,
        name: str,
        losses: Callable[[Tree, Batch], Tensor],
        *,
        labels: Labels | None = None,
        distance: Distance | None = None,
        metric: Metric | None = None,
        each: Callable[[Tree, Batch], Tensor] | None = None,
    ):
        self.name = name
        self.labels: Labels | None = labels
        self.distance: Distance | None = distance
        self.metric = metric or Metric("query_loss", False, self)
        self.each = each
        self._losses = losses

    def __call__(self, outputs: Tree, batch: Batch) -> Tensor:
        losses = self._losses(outputs, batch)
        if not losses.is_floating_point():
            raise ValueError(
                f"the loss {self.name} returned {losses.dtype}, which has no gradient; return a "
                "floating-point tensor (is an accuracy used as the loss?)"
            )
        if losses.dim() != 1:
            raise ValueError(
                f"the loss {self.name} gave shape {tuple(losses.shape[1:])} for one task, expected "
                "a scalar: average over the examples, e.g. with reduction='mean'"
            )
        return losses


def per_task(
    losses: Callable[[Any, Any], Tensor],
    name: str | None = None,
    *,
    labels: Labels | None = None,
    metric: str | Metric | None = None,
    distance: Distance | None = None,
) -> Loss:
    """A loss that sees all tasks at once: outputs (T, n, ...), labels (T, n, ...) -> (T,).

    For losses that differ from task to task, or that batch better by hand.
    """
    return Loss(
        name or _name(losses),
        _Unweighted(Foreign(losses, f"the loss {name or _name(losses)}", stacked=True)),
        labels=labels,
        distance=distance,
        metric=None if metric is None else as_metric(metric),
    )


def as_loss(
    loss: LossLike | Loss,
    *,
    labels: Labels | None = None,
    metric: str | Metric | None = None,
) -> Loss:
    """A name, a `Loss`, or any callable of one task such as `nn.CrossEntropyLoss()`.

    Names: cross_entropy, bce (with logits), mse, l1, huber. A callable gets the outputs (n, ...)
    and labels (n, ...) of one task and returns a scalar. What is not known about it (whether its
    labels are classes, its metric) is not guessed: say it with `labels` and `metric`.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        if loss not in NAMED:
            raise ValueError(f"unknown loss {loss!r}; use one of {', '.join(NAMED)} or a callable")
        return NAMED[loss]
    if not callable(loss):
        raise ValueError(f"expected a loss name or a callable, got {type(loss).__name__}")
    if isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters()):
        raise ValueError(
            f"the loss {_name(loss)} has parameters of its own, which nobody would train; move "
            "them into the model, or write an inner term with them (`innerloop.objective.Term`)"
        )
    bare = loss.func if isinstance(loss, partial) else loss
    kind = _kind(bare)
    given = loss.keywords if isinstance(loss, partial) else {}
    ignored = given.get("ignore_index", getattr(bare, "ignore_index", IGNORED))
    known = {
        "classes": ("classes", "kl", metrics.accuracy(ignored)),
        "bits": (None, None, metrics.bit_accuracy()),
        "squares": ("values", "squared", metrics.mse()),
        "absolute": ("values", "squared", metrics.mae()),
        "unknown": (None, None, None),
    }
    found_labels, distance, found_metric = known[kind]
    return Loss(
        _name(bare),
        _Unweighted(Foreign(loss, f"the loss {_name(bare)}")),
        labels=labels or found_labels,  # type: ignore[arg-type]
        distance=distance,  # type: ignore[arg-type]
        metric=found_metric if metric is None else as_metric(metric),
    )


def _kind(loss: Any) -> str:
    """What is known of torch's own losses; "unknown" for all others."""
    table: dict[str, tuple[Any, ...]] = {
        "classes": (
            nn.CrossEntropyLoss,
            nn.NLLLoss,
            nn.MultiMarginLoss,
            F.cross_entropy,
            F.nll_loss,
        ),
        "bits": (nn.BCEWithLogitsLoss, F.binary_cross_entropy_with_logits),
        "squares": (nn.MSELoss, F.mse_loss),
        "absolute": (nn.L1Loss, F.l1_loss),
    }
    for kind, losses in table.items():
        for known in losses:
            if loss is known or (isinstance(known, type) and type(loss) is known):
                return kind
    return "unknown"


@dataclass(frozen=True)
class _Unweighted:
    """A loss that returns one number for all examples together."""

    losses: Foreign

    def __call__(self, outputs: Tree, batch: Batch) -> Tensor:
        if batch.weight is not None:
            raise ValueError(
                "weights of examples need a loss that knows single examples, such as "
                'loss="cross_entropy" or "mse"; this one returns a number for all of them together'
            )
        return self.losses(outputs, batch.y)


def _name(loss: Any) -> str:
    return getattr(loss, "__name__", type(loss).__name__)


def _cross_entropies(outputs: Tree, batch: Batch) -> Tensor:
    """(T, n, ...) of outputs (T, n, C, ...), classes y (T, n, ...); zero where y is ignored."""
    scores, y = prediction(outputs), batch.y
    if not isinstance(y, Tensor) or y.is_floating_point():
        told = y.dtype if isinstance(y, Tensor) else type(y).__name__
        hot = isinstance(y, Tensor) and y.shape == scores.shape
        raise ValueError(
            f"cross_entropy expects integer class labels, got y of {told}; "
            + (
                "one-hot labels: use y.argmax(-1)"
                if hot
                else 'convert with y.long(), or use loss="mse" for regression'
            )
        )
    if scores.dim() != y.dim() + 1 or scores.shape[:2] != y.shape[:2]:
        raise ValueError(
            f"cross_entropy expects outputs (T, n, classes, ...) for labels (T, n, ...), got "
            f"outputs {tuple(scores.shape)} and labels {tuple(y.shape)}"
        )
    try:
        flat = F.cross_entropy(scores.flatten(0, 1), y.flatten(0, 1).long(), reduction="none")
    except (IndexError, RuntimeError) as error:
        _in_range(y, scores.shape[2])
        raise error
    return flat.reshape(y.shape)


def _in_range(y: Tensor, classes: int) -> None:
    """Say of labels that torch refused what would be right."""
    counted = y[y != IGNORED]
    low, high = int(counted.min()), int(counted.max())
    if low < 0 or high >= classes:
        present = counted.unique()
        renumber = len(present) <= classes
        raise ValueError(
            f"labels run from {low} to {high}, but the model has {classes} outputs and so knows "
            f"the classes 0 to {classes - 1}: "
            + (
                f"number the {len(present)} classes of each task 0, 1, 2, ..., e.g. "
                "torch.unique(y, return_inverse=True)[1]"
                if renumber
                else f"make the model {high + 1}-way or the tasks {classes}-way"
            )
        )


def _cross_entropy(outputs: Tree, batch: Batch) -> Tensor:
    return mean(_cross_entropies(outputs, batch), batch.y != IGNORED, batch.weight)


def _each_cross_entropy(outputs: Tree, batch: Batch) -> Tensor:
    losses = _cross_entropies(outputs, batch)
    return losses if losses.dim() == 2 else losses.flatten(2).mean(2)


@dataclass(frozen=True)
class _Elementwise:
    """A loss of matching entries, averaged over each task, or over each example."""

    function: Callable[..., Tensor]
    name: str
    single: bool = False

    def __call__(self, outputs: Tree, batch: Batch) -> Tensor:
        found, y = prediction(outputs), batch.y
        if found.shape != y.shape:
            raise ValueError(
                f"{self.name} expects labels of the outputs' shape, got outputs "
                f"{tuple(found.shape)} and labels {tuple(y.shape)} (T, n, ...); reshape y, e.g. "
                "y.unsqueeze(-1)"
            )
        losses = self.function(found, y.to(found.dtype), reduction="none")
        if self.single:
            return losses.flatten(2).mean(2) if losses.dim() > 2 else losses
        return mean(losses, None, batch.weight)


def _elementwise(
    name: str, function: Callable[..., Tensor], metric: Metric | None, labels: Labels | None
) -> Loss:
    return Loss(
        name,
        _Elementwise(function, name),
        labels=labels,
        distance="squared" if labels == "values" else None,
        metric=metric,
        each=_Elementwise(function, name, single=True),
    )


NAMED = {
    "cross_entropy": Loss(
        "cross_entropy",
        _cross_entropy,
        labels="classes",
        distance="kl",
        metric=metrics.accuracy(),
        each=_each_cross_entropy,
    ),
    "bce": _elementwise("bce", F.binary_cross_entropy_with_logits, metrics.bit_accuracy(), None),
    "mse": _elementwise("mse", F.mse_loss, metrics.mse(), "values"),
    "l1": _elementwise("l1", F.l1_loss, metrics.mae(), "values"),
    "huber": _elementwise("huber", F.huber_loss, None, "values"),
}

"""What is reported beside a loss: one definition of every metric, for stacked tasks.

Each gives one number per task (T,) from outputs (T, n, ...) and a batch with labels (T, n, ...).
Ignored labels do not count; weights of examples (T, n) do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.contract import Metric
from ..core.types import Batch, Tree

IGNORED = -100
"""The label that torch's cross-entropy leaves out by default."""


def prediction(outputs: Tree) -> Tensor:
    """The one tensor that losses of a name look at: the outputs, or what they call `logits`.

    Raises ValueError where it is not clear which one.
    """
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, dict) and isinstance(outputs.get("logits"), Tensor):
        found: Tensor = outputs["logits"]
        return found
    if isinstance(getattr(outputs, "logits", None), Tensor):
        return outputs.logits
    kind = sorted(outputs) if isinstance(outputs, dict) else type(outputs).__name__
    raise ValueError(
        f"expected one tensor of outputs, or one called `logits`, got {kind}: pass a loss of your "
        "own, such as loss=lambda outputs, y: F.cross_entropy(outputs['class'], y)"
    )


def mean(values: Tensor, counts: Tensor | None, weight: Tensor | None) -> Tensor:
    """The mean over all axes but the first, over entries that count, weighted: (T,).

    `counts` is True for entries that count, in the shape of `values`; `weight` is (T, n).
    """
    if counts is None and weight is None:
        return values.flatten(1).mean(1)
    share = torch.ones_like(values) if counts is None else counts.to(values.dtype)
    if weight is not None:
        share = share * weight.to(values.dtype).reshape(*weight.shape, *[1] * (values.dim() - 2))
    # Not values * 0: an entry that is left out may be infinite.
    values = torch.where(share > 0, values, torch.zeros_like(values))
    total = share.flatten(1).sum(1)
    if counts is None:  # a mini-batch of which no example counts says nothing, and moves nothing
        total = torch.where(total > 0, total, torch.ones_like(total))
    return (values * share).flatten(1).sum(1) / total


@dataclass(frozen=True)
class _Hits:
    """The share of entries whose largest output is the label's."""

    ignored: int | None

    def __call__(self, outputs: Tree, batch: Batch) -> Tensor:
        scores = prediction(outputs)
        if scores.dim() != batch.y.dim() + 1 or scores[:, :, 0].shape != batch.y.shape:
            raise ValueError(
                f"accuracy compares outputs (tasks, queries, classes, ...) with labels (tasks, "
                f"queries, ...), got outputs {tuple(scores.shape)} for labels "
                f"{tuple(batch.y.shape)}"
            )
        # An output that is not finite is no answer; arg-max alone would give it a class.
        right = (scores.argmax(2) == batch.y) & scores.isfinite().all(2)
        counts = None if self.ignored is None else batch.y != self.ignored
        return mean(right.to(scores.dtype), counts, batch.weight)


@dataclass(frozen=True)
class _Error:
    """The mean of a function of the differences between outputs and values."""

    name: str
    of: Callable[[Tensor], Tensor]

    def __call__(self, outputs: Tree, batch: Batch) -> Tensor:
        found = prediction(outputs)
        _same_shape(self.name, found, batch.y)
        return mean(self.of(found - batch.y.to(found.dtype)), None, batch.weight)


def _right_bits(outputs: Tree, batch: Batch) -> Tensor:
    scores = prediction(outputs)
    _same_shape("accuracy", scores, batch.y)
    right = ((scores > 0) == (batch.y > 0.5)) & scores.isfinite()
    return mean(right.to(scores.dtype), None, batch.weight)


def accuracy(ignored: int | None = IGNORED) -> Metric:
    """The share of examples (or pixels, tokens) whose largest output is the label's."""
    return Metric("accuracy", True, _Hits(ignored))


def bit_accuracy() -> Metric:
    """The share of labels 0 or 1 on whose side of zero the logit lies."""
    return Metric("accuracy", True, _right_bits)


def _same_shape(name: str, outputs: Tensor, y: Tensor) -> None:
    """(n, 1) values against (n,) outputs would broadcast to (n, n) in silence."""
    if outputs.shape != y.shape:
        raise ValueError(
            f"{name} compares outputs with values of the same shape, got outputs "
            f"{tuple(outputs.shape)} for targets {tuple(y.shape)}"
        )


def mse() -> Metric:
    """The mean squared error."""
    return Metric("mse", False, _Error("mse", torch.square))


def mae() -> Metric:
    """The mean absolute error."""
    return Metric("mae", False, _Error("mae", torch.abs))


NAMED: dict[str, Callable[[], Metric]] = {
    "accuracy": accuracy,
    "bit_accuracy": bit_accuracy,
    "mse": mse,
    "mae": mae,
}


def as_metric(metric: str | Metric) -> Metric:
    """A metric, or the name of one."""
    if isinstance(metric, Metric):
        if metric.name == "loss":
            raise ValueError(
                'a metric called "loss" would stand in place of the outer loss in `stats`; call '
                "it otherwise"
            )
        return metric
    if metric not in NAMED:
        raise ValueError(f"unknown metric {metric!r}; use one of {', '.join(NAMED)} or a Metric")
    return NAMED[metric]()

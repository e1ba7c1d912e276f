"""The data between the pieces. Every tensor of a task batch has a leading task axis T."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

Params = dict[str, Tensor]
"""A flat dictionary of tensors in one canonical order: the order of `named_parameters()`."""


class Batch(NamedTuple):
    """Labelled examples of T tasks: `x` of shape (T, n, ...), `y` of shape (T, n, ...)."""

    x: Tensor
    y: Tensor


class Task(NamedTuple):
    """T stacked tasks: adapt on `support`, be right on `query`."""

    support: Batch
    query: Batch


@dataclass(frozen=True)
class MetaGradient:
    """What an estimator returns.

    `loss` is the mean query loss over tasks (scalar), `grads` the gradient of it in the canonical
    order of the meta-parameters, `stats` what was seen on the way, one value per task: (T,).
    `memory` is the solver state that outlives the tasks, for solvers that keep one.
    """

    loss: Tensor
    grads: Params
    stats: dict[str, Tensor]
    memory: Params = field(default_factory=dict)

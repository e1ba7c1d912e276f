"""What a closed or convex form on features is: a linear map fitted to each task's support set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..core.contract import Refusal
from ..core.types import Params


class Fit(NamedTuple):
    """z -> z weight^T + bias with weight (T, C, d) and bias (T, C), and how the solve went.

    `stats` has one value per task: (T,). It is empty for a form that cannot fail.
    """

    weight: Tensor
    bias: Tensor
    stats: Params


class Head(nn.Module, ABC):
    """Fits a linear map on features. What it learns is the module's parameters."""

    def refuse(self, targets: str) -> Refusal | None:
        """Why it cannot fit "classes" (rows of zeros with a single one) or "values" (any numbers).

        None where it can; by default only classes.
        """
        if targets == "classes":
            return None
        return Refusal(
            f"`{type(self).__name__}` separates classes and cannot fit values",
            'use `Ridge()`, or targets="classes"',
        )

    @abstractmethod
    def fit(self, hyper: Params, z: Tensor, targets: Tensor) -> Fit:
        """From features z (T, n, d) and targets (T, n, C), differentiable in z and `hyper`.

        Solves in float64, whatever the precision of z, and gives it back in that of z (float32 for
        less). `hyper` holds this module's parameters as they are to be differentiated.
        """

    @abstractmethod
    def describe(self) -> str:
        """The head in a few words."""


def with_ones(x: Tensor) -> Tensor:
    """A column of ones behind the features: its weight is the bias."""
    return torch.cat([x, torch.ones_like(x[..., :1])], -1)


def linear(w: Tensor, intercept: bool, like: Tensor, stats: Params | None = None) -> Fit:
    """The fit of weights w (T, C, p); with an intercept, its weight is the last of the p."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    w = w.to(like.device, dtype)
    weight, bias = (w[..., :-1], w[..., -1]) if intercept else (w, torch.zeros_like(w[..., 0]))
    return Fit(weight, bias, {k: v.to(like.device) for k, v in (stats or {}).items()})

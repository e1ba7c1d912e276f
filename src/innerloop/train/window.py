"""The per-step numbers that no record has reported yet: a list of steps, or one tensor for each."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.types import MetaGradient

Window = list[dict[str, Tensor]]


def numbers_of(result: MetaGradient, norm: float, seconds: float) -> dict[str, Tensor]:
    """What the window keeps of a step: no gradient, no graph."""
    kept = {k: v.detach() for k, v in result.stats.items()}
    return {
        **kept,
        "loss": result.loss.detach(),
        "grad_norm": torch.tensor(norm),
        "step_seconds": torch.tensor(seconds),
    }


def stacked(window: Window) -> dict[str, Tensor]:
    """Every number as (steps, ...), on the CPU: what a checkpoint holds."""
    if not window:
        return {}
    return {k: torch.stack([row[k].cpu() for row in window]) for k in window[0]}


def unstacked(numbers: dict[str, Tensor]) -> Window:
    """The inverse of `stacked`."""
    steps = len(next(iter(numbers.values()), ()))
    return [{k: v[i] for k, v in numbers.items()} for i in range(steps)]

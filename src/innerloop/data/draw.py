"""Batched draws without replacement."""

from __future__ import annotations

import torch
from torch import Tensor


def distinct(size: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k different numbers below each `size`, in uniformly random order: (..., k) for size (...).

    Floyd's sampling, one pass of vectorised operations per number drawn, so the cost does not
    depend on `size`, which may differ from entry to entry (at least k everywhere).

    Source: Bentley and Floyd 1987, "A sample of brilliance", algorithm F2.
    """
    if bool((size < k).any()):
        raise ValueError(f"cannot draw {k} different items from {int(size.min())}")
    chance = torch.rand(2, *size.shape, k, generator=generator, dtype=torch.float64, device="cpu")
    top = size.unsqueeze(-1) - k + torch.arange(k, device="cpu")
    first = (chance[0] * (top + 1)).long().minimum(top)
    chosen = first.clone()
    for i in range(1, k):
        taken = (chosen[..., :i] == first[..., i : i + 1]).any(-1)
        chosen[..., i] = torch.where(taken, top[..., i], first[..., i])
    return chosen.gather(-1, chance[1].argsort(-1))

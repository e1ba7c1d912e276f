"""A context vector beside the input (CAVIA)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Contextual(nn.Module):
    """`model([x, context])`: a parameter `context` of shape (size,) joins the last input axis.

    Adapting `context` alone, from zero for every task, is CAVIA; the weights of `model` are then
    shared by all tasks. `model` must accept inputs whose last axis is longer by `size`.

    Source: Zintgraf et al. 2019, section 3.1 (fully connected networks).
    """

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a context needs a size of at least 1, got {size}")
        self.model = model
        self.context = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        context = self.context.to(x.dtype).expand(*x.shape[:-1], -1)
        return self.model(torch.cat([x, context], dim=-1))

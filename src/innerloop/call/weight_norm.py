"""Weight normalisation with a right second derivative."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm


class ComposedWeightNorm(nn.Module):
    """w = g v / ||v||, from elementary operations; `dim` as in `torch.nn.utils`.

    PyTorch's fused kernel has the right gradient, but differentiated again it treats ||v|| as a
    constant: the second derivative in v is off by tens of per cent, without any error raised.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        if self.dim == -1:
            return v * (g / torch.linalg.vector_norm(v))
        axes = [i for i in range(v.dim()) if i != self.dim % v.dim()]
        return v * (g / torch.linalg.vector_norm(v, dim=axes, keepdim=True))


def compose(model: nn.Module) -> None:
    """Replace the fused weight normalisations of `model` (a private copy)."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _WeightNorm):
                setattr(module, name, ComposedWeightNorm(child.dim))

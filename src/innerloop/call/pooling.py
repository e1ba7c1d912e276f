"""Max-pooling whose second derivative follows the channels where they lie innermost.

PyTorch's own brings the activations into another layout first, at three times the price. Made for
one task at a time: no `vmap`, no forward mode.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

_aten = torch.ops.aten


class MaxPooling(Function):
    """y = the largest value of each window; its places are kept as indices into the plane."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[Any, ...]) -> Tensor:
        y, places = _aten.max_pool2d_with_indices(x, *window)
        ctx.save_for_backward(x, places)
        ctx.window = window
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, None]:
        x, places = ctx.saved_tensors
        return _MaxPoolingBackward.apply(gy, x, places, ctx.window), None


class _MaxPoolingBackward(Function):
    """gx = gy at its places, linear in gy: its transpose reads the cotangent there."""

    @staticmethod
    def forward(ctx: Any, gy: Tensor, x: Tensor, places: Tensor, window: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(places)
        ctx.window = window
        return _aten.max_pool2d_with_indices_backward(gy, x, *window, places)

    @staticmethod
    def backward(ctx: Any, cx: Tensor) -> tuple[Tensor, None, None, None]:
        (places,) = ctx.saved_tensors
        n, c, height, width = places.shape
        rows = cx.permute(0, 2, 3, 1).reshape(n, -1, c)
        found = rows.gather(1, places.permute(0, 2, 3, 1).reshape(n, -1, c))
        return found.view(n, height, width, c).permute(0, 3, 1, 2), None, None, None

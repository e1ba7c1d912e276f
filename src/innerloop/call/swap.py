"""Layers that take the closed second derivatives of `kernels` where these hold.

Each object here stands in for the `forward` of one layer while a model is called: the layer keeps
its class, its hooks and everything that is asked of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from .kernels import Convolution, Normalisation
from .pooling import MaxPooling
from .weight_norm import FORWARDS


def transformed() -> bool:
    """Whether a function transform of torch (`vmap`, `grad`, `jvp`) is active here."""
    return torch._C._functorch.peek_interpreter_stack() is not None


class ClosedConvolution:
    """`forward` of a convolution; its class's own path under a function transform."""

    def __init__(self, layer: Any):
        self.layer = layer

    def __call__(self, input: Tensor) -> Tensor:
        layer = self.layer
        weight = layer.weight
        if transformed() or input.dim() != weight.dim() or input.is_complex():
            return type(layer).forward(layer, input)
        shape = (layer.stride, layer.padding, layer.dilation, layer.groups)
        return Convolution.apply(input, weight, layer.bias, shape)


class ClosedNormalisation:
    """`forward` of batch normalisation by the batch's own statistics."""

    def __init__(self, layer: Any):
        self.layer = layer

    def __call__(self, input: Tensor) -> Tensor:
        layer = self.layer
        if transformed() or layer.running_mean is not None or input.dim() < 3:
            return type(layer).forward(layer, input)
        layer._check_input_dim(input)
        if input.numel() == input.shape[1]:
            return type(layer).forward(layer, input)  # which refuses one value per channel
        return Normalisation.apply(input, layer.weight, layer.bias, layer.eps)


class ClosedPooling:
    """`forward` of max-pooling where the channels lie innermost."""

    def __init__(self, layer: Any):
        self.layer = layer

    def __call__(self, input: Tensor) -> Tensor:
        layer = self.layer
        innermost = torch.channels_last
        if layer.return_indices or input.dim() != 4 or input.is_contiguous() or transformed():
            return type(layer).forward(layer, input)
        if not input.is_contiguous(memory_format=innermost):
            return type(layer).forward(layer, input)
        sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        return MaxPooling.apply(input, (*map(_pair, sizes), layer.ceil_mode))


_CLOSED: dict[type[nn.Module], type] = {
    nn.Conv1d: ClosedConvolution,
    nn.Conv2d: ClosedConvolution,
    nn.Conv3d: ClosedConvolution,
    nn.BatchNorm1d: ClosedNormalisation,
    nn.BatchNorm2d: ClosedNormalisation,
    nn.BatchNorm3d: ClosedNormalisation,
    nn.MaxPool2d: ClosedPooling,
}


def closed_form(layer: nn.Module) -> Any | None:
    """What stands in for the layer's `forward` while one task runs alone; None without one."""
    if type(layer) not in _CLOSED or "forward" in layer.__dict__:
        return None
    if isinstance(layer, nn.modules.conv._ConvNd) and (
        layer.padding_mode != "zeros" or isinstance(layer.padding, str)
    ):
        return None
    return _CLOSED[type(layer)](layer)


def corrected(layer: nn.Module) -> Any | None:
    """What stands in for a `forward` whose second derivative is wrong in torch."""
    kind = FORWARDS.get(type(layer))
    return None if kind is None or "forward" in layer.__dict__ else kind(layer)

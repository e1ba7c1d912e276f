"""Layers that take the closed second derivatives of `kernels` where these hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.utils import _pair

from .kernels import Convolution, Normalisation
from .pooling import MaxPooling


class Layer:
    """A layer that takes the closed forms while `alone`, and its class's own path otherwise."""

    alone = False


class _Conv(Layer, nn.modules.conv._ConvNd):
    def forward(self, x: Tensor) -> Tensor:
        if not self.alone or x.dim() != self.weight.dim() or x.is_complex():
            return super().forward(x)
        shape = (self.stride, self.padding, self.dilation, self.groups)
        return Convolution.apply(x, self.weight, self.bias, shape)


class _Norm(Layer, _BatchNorm):
    def forward(self, x: Tensor) -> Tensor:
        if not self.alone or self.running_mean is not None or x.dim() < 3:
            return super().forward(x)
        self._check_input_dim(x)
        if x.numel() == x.shape[1]:
            return super().forward(x)  # which refuses one value per channel
        return Normalisation.apply(x, self.weight, self.bias, self.eps)


class Conv1d(_Conv, nn.Conv1d):
    pass


class Conv2d(_Conv, nn.Conv2d):
    pass


class Conv3d(_Conv, nn.Conv3d):
    pass


class BatchNorm1d(_Norm, nn.BatchNorm1d):
    pass


class BatchNorm2d(_Norm, nn.BatchNorm2d):
    pass


class BatchNorm3d(_Norm, nn.BatchNorm3d):
    pass


class MaxPool2d(Layer, nn.MaxPool2d):
    def forward(self, x: Tensor) -> Tensor:
        if not self.alone or self.return_indices or x.dim() != 4 or x.is_contiguous():
            return super().forward(x)
        if not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        sizes = (self.kernel_size, self.stride, self.padding, self.dilation)
        return MaxPooling.apply(x, (*map(_pair, sizes), self.ceil_mode))


_OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.Conv3d: Conv3d,
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
    nn.MaxPool2d: MaxPool2d,
}


def swap(model: nn.Module) -> list[Layer]:
    """Give the layers of `model` (a private copy) their closed forms; returns them."""
    found = []
    for module in model.modules():
        if type(module) not in _OURS:
            continue
        if isinstance(module, nn.modules.conv._ConvNd) and (
            module.padding_mode != "zeros" or isinstance(module.padding, str)
        ):
            continue
        module.__class__ = _OURS[type(module)]
        found.append(module)
    return found  # type: ignore[return-value]

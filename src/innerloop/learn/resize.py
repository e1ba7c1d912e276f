"""A parameter of another shape in a layer: heads with another number of classes."""

from __future__ import annotations

from torch import Tensor, nn


def resize(model: nn.Module, name: str, value: Tensor) -> None:
    """Put a parameter of another shape into a layer; a linear layer's width follows."""
    path, _, attribute = name.rpartition(".")
    layer = model.get_submodule(path)
    setattr(layer, attribute, nn.Parameter(value.detach().clone()))
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape

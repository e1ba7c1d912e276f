"""Bias transformation: a learned vector beside a layer's input, which decouples its bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.utils import parametrize

from .sharing import first_layer, sharing_copy

_KINDS = (nn.Linear, nn.modules.conv._ConvNd)


class BiasTransform(nn.Module):
    """b + V z in place of a bias b: the layer of [x, z] with weights [W, V] is W x + V z + b.

    `vector` is z (size,), `mixing` is V (outputs, size), drawn from U(-k, k) with
    k = 1 / sqrt(inputs + size): how torch draws the columns of a layer that is wider by `size`.
    """

    def __init__(self, vector: nn.Parameter, outputs: int, inputs: int) -> None:
        super().__init__()
        self.vector = vector
        self.mixing = nn.Parameter(vector.new_empty(outputs, len(vector)))
        bound = 1 / math.sqrt(inputs + len(vector))
        nn.init.uniform_(self.mixing, -bound, bound)

    def forward(self, bias: Tensor) -> Tensor:
        return bias + self.mixing @ self.vector


def bias_transformed(
    model: nn.Module, size: int = 10, *, layers: Sequence[str] | None = None
) -> nn.Module:
    """`model` with y = W x + V z + b in its linear or convolutional layers `layers` (patterns).

    z (size,) starts at zero, so that the outputs are the model's; it is meta-learned and adapted
    like any weight. One inner step at rate a then moves the effective bias not by -a g but, with
    one example and g = dL/dy, by

        -a (1 + |z|^2) g - a V V^T g + a^2 (z^T V^T g) g :

    the bias update is learned apart from the forward pass. By default the first linear layer, as in
    the paper; `layers=("*",)` takes all. In a convolution z is the same at every pixel and is not
    padded, where the authors append an image of the input's size to the first one.

    The result shares its weights with `model`, whose own layers stay as they are. A layer without
    bias gets one of zeros.

    Source: Finn, Yu, Zhang, Abbeel, Levine 2017 (one-shot visual imitation); size 10 for
    reaching and 20 for pushing, z at zero (code).
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"a bias transformation needs a size of at least 1, got {size!r}")
    changed = sharing_copy(model)
    patterns = (first_layer(changed, (nn.Linear,)),) if layers is None else tuple(layers)
    candidates = {k: m for k, m in changed.named_modules() if isinstance(m, _KINDS)}
    names = {k for p in patterns for k in candidates if fnmatchcase(k, p)}
    for pattern in patterns:
        if not any(fnmatchcase(k, pattern) for k in candidates):
            raise ValueError(
                f"no linear or convolutional layer of the model matches {pattern!r}; it has "
                f"{', '.join(candidates) or '(none)'}"
            )
    for name in candidates:
        if name in names:
            layer = candidates[name]
            vector = nn.Parameter(_weight(layer).new_zeros(size))
            transform_bias(layer, vector)
    return changed


def transform_bias(layer: nn.Module, vector: nn.Parameter) -> None:
    """Add V z to the bias of one layer, z being `vector`."""
    weight = _weight(layer)
    outputs = getattr(layer, "out_features", None) or getattr(layer, "out_channels", None)
    assert isinstance(outputs, int)
    if layer.bias is None:
        layer.bias = nn.Parameter(weight.new_zeros(outputs))
    inputs = weight.numel() // outputs
    parametrize.register_parametrization(layer, "bias", BiasTransform(vector, outputs, inputs))


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()

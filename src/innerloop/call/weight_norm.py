"""Reparametrised weights whose torch version has a wrong second derivative, or keeps a state."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList


class ComposedWeightNorm:
    """w = g v / ||v||, from elementary operations; `dim` as in `torch.nn.utils`.

    Takes the place of the layer's `forward`. PyTorch's fused kernel has the right gradient, but
    differentiated again it treats ||v|| as a constant: the second derivative in v is off by tens of
    per cent, without any error raised.
    """

    def __init__(self, layer: nn.Module):
        self.layer = layer

    def __call__(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        g, v, dim = weight_g, weight_v, self.layer.dim
        assert isinstance(dim, int)
        if dim == -1:
            return v * (g / torch.linalg.vector_norm(v))
        axes = [i for i in range(v.dim()) if i != dim % v.dim()]
        return v * (g / torch.linalg.vector_norm(v, dim=axes, keepdim=True))


class ExactSpectralNorm:
    """w / sigma(w) with the largest singular value of the weights in use.

    Takes the place of the layer's `forward`. PyTorch's estimates sigma by vectors that each forward
    pass brings a little nearer to the right ones. They would have to be kept for every task and
    step; and as they count as constants, the second derivative is not that of w / sigma(w). The
    exact value needs no vectors: a function of the weights alone, with every derivative.
    """

    def __init__(self, layer: nn.Module):
        self.layer = layer

    def __call__(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            eps = self.layer.eps
            assert isinstance(eps, float)
            return F.normalize(weight, dim=0, eps=eps)
        return weight / torch.linalg.matrix_norm(as_matrix(self.layer, weight), 2)


def as_matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    """The weight as the matrix whose singular values are meant: the axis `dim` against the rest."""
    dim = layer.dim
    assert isinstance(dim, int)
    return weight.movedim(dim, 0).flatten(1)


def set_vectors(model: nn.Module) -> None:
    """Bring the stored vectors of spectrally normalised layers up to their present weights.

    In eval mode such a layer then divides by the exact singular value.
    """
    for chain in model.modules():
        if not isinstance(chain, ParametrizationList) or not hasattr(chain, "original"):
            continue
        weight = chain.original
        assert isinstance(weight, Tensor)
        for layer in chain:
            if isinstance(layer, _SpectralNorm) and weight.ndim > 1:
                u, _, vh = torch.linalg.svd(as_matrix(layer, weight), full_matrices=False)
                layer._u.copy_(u[:, 0])
                layer._v.copy_(vh[0])
            weight = layer(weight)


FORWARDS = {_WeightNorm: ComposedWeightNorm, _SpectralNorm: ExactSpectralNorm}
"""What a forward pass puts in the place of these layers' own."""

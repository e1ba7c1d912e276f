"""A model called with other weights, under a normalisation policy."""

from .model import ModelCall, differentiable_kernels

__all__ = ["ModelCall", "differentiable_kernels"]

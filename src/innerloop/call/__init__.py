"""A model called with other weights than its own.

Meta-learning asks one network for its outputs at many weights: those of every task at every inner
step. `ModelCall` makes the network a function of them. It writes the weights into the places of the
user's own module (`slots`), calls it, and puts everything back (`dress`), so that closures, hooks
and later changes of the module count (`survey`). Several tasks run at once by `torch.func.vmap`,
known nowhere else; a model that cannot be batched runs them one after another. Normalisation layers
follow a named `policy`; layers whose second derivative torch has wrong or slow get another
`forward` for that time (`weight_norm`, `swap`, `kernels`, `pooling`). Before the first call the
model is tried out (`examine`, `probe`): does it draw random numbers (`randomness`), does its code
run again in the backward pass (`backward`), would a number be wrong? Inputs and outputs are `trees`
of tensors. `materialise` hands out the adapted model as a module of its own (`copies`).
"""

from .model import ModelCall, differentiable_kernels

__all__ = ["ModelCall", "differentiable_kernels"]

"""What an inner learning rate is to those who ask for one, and to those who train it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable

import torch
from torch import Tensor, nn

from .types import Params


class Rate(nn.Module, ABC):
    """A step size for every adapted tensor and step. Learned values are the module's parameters.

    Whoever trains a method finds its learned rates by this class, wherever in the method they are.
    """

    bound = False
    """Whether a solver has it."""

    @abstractmethod
    def bind(self, shapes: dict[str, torch.Size], steps: int, dtype: torch.dtype) -> None:
        """Create the learned values, once the adapted tensors are known."""

    @abstractmethod
    def at(self, hyper: Params, t: int, name: str) -> float | Tensor:
        """The rate of tensor `name` at step t; broadcasts against (T, *shape).

        `hyper` holds this module's parameters as they are to be differentiated.
        """

    def key(self, t: int) -> Hashable:
        """Steps with equal keys use the same rates; by default no two do."""
        return t

    @abstractmethod
    def describe(self) -> str:
        """The rate in a few words."""

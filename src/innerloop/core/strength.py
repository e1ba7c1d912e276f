"""Regularisation strengths: fixed, or learned and positive."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .checks import positive
from .types import Params


class Strength(nn.Module):
    """A regularisation strength lam > 0: fixed, or learned as log lam, so that it stays positive.

    Raises ValueError unless 0 < lam < inf.
    """

    def __init__(self, lam: float, *, learned: bool):
        super().__init__()
        self.lam = positive("lam", lam)
        self.log = nn.Parameter(torch.tensor(math.log(self.lam))) if learned else None
        self._bound = False

    def bind(self, dtype: torch.dtype) -> None:
        """Give a learned lam this precision; counts once."""
        if self.log is not None and not self._bound:
            self._bound = True
            self.log = nn.Parameter(torch.tensor(math.log(self.lam), dtype=dtype))

    def at(self, hyper: Params) -> float | Tensor:
        """In float64. `hyper` holds the parameters of the owner, whose `lam` this module is."""
        return precise(hyper["lam.log"]).exp() if "lam.log" in hyper else self.lam

    def describe(self) -> str:
        if self.log is None:
            return f"lam {self.lam:g}"
        return f"lam {float(self.log.detach().exp()):.4g}, learned"


def precise(z: Tensor) -> Tensor:
    """In float64: a Gram matrix squares the condition number, and few-shot ones are small.

    Apple's accelerator has no float64, so its features are solved on the CPU.
    """
    return (z.cpu() if z.device.type == "mps" else z).double()

"""Penalties that tie phi to its start and make phi_K a stationary point worth differentiating."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..core import trees
from ..core.types import Params


class Proximal(nn.Module):
    """(lam / 2) ||phi - phi_0||^2, added to the support loss of each task.

    `lam` has the unit of loss per squared weight. With `learned=True` its logarithm is a
    meta-parameter, so that it stays positive: d/d lam is the gradient of `log` over lam.
    Raises ValueError unless lam > 0.

    Source: Rajeswaran et al. 2019 (iMAML), eq. 3.
    """

    def __init__(self, lam: float, *, learned: bool = False):
        super().__init__()
        if not lam > 0 or lam == float("inf"):
            raise ValueError(
                f"expected a penalty lam > 0 (it makes the inner problem well posed), "
                f"got lam={lam!r}; iMAML's paper uses 2.0 on Omniglot and 0.5 on miniImageNet"
            )
        self.lam = float(lam)
        self.log = nn.Parameter(torch.tensor(math.log(self.lam))) if learned else None
        self._bound = False

    def bind(self, dtype: torch.dtype) -> None:
        """Give a learned lam the precision of the weights; called by the learner, counts once."""
        if self.log is not None and not self._bound:
            self._bound = True
            self.log = nn.Parameter(torch.tensor(math.log(self.lam), dtype=dtype))

    def losses(self, hyper: Params, phi: Params, start: Params) -> Tensor:
        """The penalty of each task: (T,). `hyper` holds this module's parameters."""
        gap = {k: v - start[k] for k, v in phi.items()}
        lam = hyper["log"].exp() if "log" in hyper else self.lam
        return 0.5 * lam * trees.dot(gap, gap)

    def describe(self) -> str:
        if self.log is None:
            return f"proximal penalty lam {self.lam:g}"
        return f"proximal penalty lam {float(self.log.detach().exp()):.4g}, learned"

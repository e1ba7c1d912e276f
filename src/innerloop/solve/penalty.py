"""Penalties that tie phi to its start and make phi_K a stationary point worth differentiating."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core import trees
from ..core.strength import Strength
from ..core.types import Params


class Proximal(nn.Module):
    """(lam / 2) ||phi - phi_0||^2, added to the support loss of each task.

    `lam` has the unit of loss per squared weight. With `learned=True` its logarithm is a
    meta-parameter, so that it stays positive: d/d lam is the gradient of `lam.log` over lam.
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
        self.lam = Strength(lam, learned=learned)

    def bind(self, dtype: torch.dtype) -> None:
        """Give a learned lam the precision of the weights; called by the learner, counts once."""
        self.lam.bind(dtype)

    def losses(self, hyper: Params, phi: Params, start: Params) -> Tensor:
        """The penalty of each task: (T,). `hyper` holds this module's parameters."""
        gap = {k: v - start[k] for k, v in phi.items()}
        return 0.5 * self.lam.at(hyper) * trees.dot(gap, gap)

    def describe(self) -> str:
        return f"proximal penalty {self.lam.describe()}"

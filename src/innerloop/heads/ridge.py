"""Ridge regression on features, in closed form (R2-D2, MetaOptNet's ridge)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.contract import Refusal
from ..core.strength import Strength, precise
from ..core.types import Params
from .head import Fit, Head, linear, with_ones
from .quadratic import factor


class Ridge(Head):
    """W = argmin ||X W - Y||^2 + lam ||W||^2, with classes as rows of Y with a single one.

    X is the features, with a column of ones behind them if `intercept` (so the bias is regularised
    like the weights). With `average` the squared error is the mean over the n support examples:
    the strength is then n lam, and does not depend on the size of the support set.

    Solved by the p x p normal equations or, for n <= p, by the n x n ones (`woodbury`): the same W.
    Any n, d and duplicates are well posed, because lam > 0.

    The defaults are R2-D2's: X and Y are divided by sqrt(n) in the authors' code, which is
    `average`, and lam is 50. Their released commands keep lam fixed; their paper learns it, here
    through its logarithm. MetaOptNet's is `Ridge(learned=False, intercept=False, average=False)`.

    Source: Bertinetto et al. 2019, section 3.2; Lee et al. 2019, section 3.2.
    """

    def __init__(
        self,
        lam: float = 50.0,
        *,
        learned: bool = True,
        intercept: bool = True,
        average: bool = True,
    ):
        super().__init__()
        self.lam = Strength(lam, learned=learned)
        self.intercept = intercept
        self.average = average

    def refuse(self, targets: str) -> Refusal | None:
        return None

    def fit(self, hyper: Params, z: Tensor, targets: Tensor) -> Fit:
        x, y = precise(z), precise(targets)
        x = with_ones(x) if self.intercept else x
        n, p = x.shape[-2:]
        lam = self.lam.at(hyper) * (n if self.average else 1)
        solve = woodbury if n <= p else primal
        return linear(solve(x, y, lam).transpose(1, 2), self.intercept, z)

    def describe(self) -> str:
        return f"ridge regression, {self.lam.describe()}"


def primal(x: Tensor, y: Tensor, lam: float | Tensor) -> Tensor:
    """(X^T X + lam I)^-1 X^T Y for x (T, n, p) and y (T, n, C): (T, p, C)."""
    gram = x.transpose(1, 2) @ x
    return torch.cholesky_solve(x.transpose(1, 2) @ y, factor(ridged(gram, lam)))


def woodbury(x: Tensor, y: Tensor, lam: float | Tensor) -> Tensor:
    """X^T (X X^T + lam I)^-1 Y, equal to `primal` by Woodbury's identity."""
    kernel = x @ x.transpose(1, 2)
    return x.transpose(1, 2) @ torch.cholesky_solve(y, factor(ridged(kernel, lam)))


def ridged(matrix: Tensor, lam: float | Tensor) -> Tensor:
    """matrix + lam I."""
    return matrix + lam * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)

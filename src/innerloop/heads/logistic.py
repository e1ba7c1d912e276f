"""Logistic regression on features by a fixed number of Newton steps (LR-D2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..core.strength import Strength, precise
from ..core.types import Params
from .head import Fit, Head, linear, with_ones
from .quadratic import factor
from .ridge import ridged


class Logistic(Head):
    """w = argmin sum_i log(1 + exp(-+ x_i^T w)) + (lam / 2) ||w||^2, one class against the rest.

    `steps` Newton steps (iteratively reweighted least squares) from w = 0, differentiated step by
    step. More than two classes are one problem each, and the logits are the log-odds x^T w_c. Two
    classes are a single problem with logits (-x^T w / 2, x^T w / 2), whose softmax is its sigmoid.

    X is the features with a column of ones. `stats` holds `inner_gradient_norm`, that of the
    objective after the last step, over all classes: five steps come close to its minimum, one does
    not.

    The authors' step divides by s = mu (1 - mu), which vanishes for a confident example; ours is
    the same step without that division: with R = diag(sqrt(s)), K = X X^T, b = s eta + y - mu,

        w = X^T a,   lam a = b - R (lam I + R K R)^-1 R K b.

    Source: Bertinetto et al. 2019, section 3.3 and code (lam 50; 1 for two classes; 1 or 5 steps,
    10 for two classes; one against the rest; inputs not divided by sqrt(n); no output scale). The
    stable form is Rasmussen & Williams 2006, algorithm 3.1.

    Raises ValueError unless steps >= 1 and lam > 0.
    """

    def __init__(self, lam: float = 50.0, *, steps: int = 5, learned: bool = True):
        super().__init__()
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"expected at least one Newton step, got steps={steps!r}")
        self.lam = Strength(lam, learned=learned)
        self.steps = steps

    def fit(self, hyper: Params, z: Tensor, targets: Tensor) -> Fit:
        x, y = with_ones(precise(z)), precise(targets).transpose(1, 2)
        two = y.shape[1] == 2
        y = y[:, 1:] if two else y
        lam = self.lam.at(hyper)
        n, p = x.shape[-2:]
        solve = dual_newton if n <= p else primal_newton
        w = solve(x, y, lam, self.steps)
        with torch.no_grad():
            gradient = (torch.sigmoid(w @ x.transpose(1, 2)) - y) @ x + lam * w
            stats = {"inner_gradient_norm": gradient.flatten(1).norm(dim=1).to(z.dtype)}
        return linear(torch.cat([-w / 2, w / 2], 1) if two else w, True, z, stats)

    def describe(self) -> str:
        return f"logistic regression, {self.steps} Newton steps, {self.lam.describe()}"


def primal_newton(x: Tensor, y: Tensor, lam: float | Tensor, steps: int) -> Tensor:
    """Newton's method for x (T, n, p) and y (T, C, n) by p x p equations: w (T, C, p)."""
    w = x.new_zeros(*y.shape[:2], x.shape[-1])
    each = x.unsqueeze(1)
    for _ in range(steps):
        eta = w @ x.transpose(1, 2)
        scaled = _root(eta).unsqueeze(-1) * each
        hessian = ridged(scaled.transpose(-1, -2) @ scaled, lam)
        b = _root(eta).square() * eta + y - torch.sigmoid(eta)
        w = torch.cholesky_solve((b @ x).unsqueeze(-1), factor(hessian)).squeeze(-1)
    return w


def dual_newton(x: Tensor, y: Tensor, lam: float | Tensor, steps: int) -> Tensor:
    """The same w = X^T a by n x n equations."""
    kernel = x @ x.transpose(1, 2)
    a = torch.zeros_like(y)
    for _ in range(steps):
        eta = a @ kernel
        root = _root(eta)
        b = root.square() * eta + y - torch.sigmoid(eta)
        system = ridged(root.unsqueeze(-1) * kernel.unsqueeze(1) * root.unsqueeze(-2), lam)
        solved = torch.cholesky_solve((root * (b @ kernel)).unsqueeze(-1), factor(system))
        a = (b - root * solved.squeeze(-1)) / lam
    return a @ x


def _root(eta: Tensor) -> Tensor:
    """sqrt(mu (1 - mu)) for mu = sigmoid(eta), with a finite derivative where it vanishes."""
    return (0.5 * (logsigmoid(eta) + logsigmoid(-eta))).exp()

"""The quadratic programs of multi-class support vector machines, all tasks and classes at once.

    minimise  sum_m (1/2 a_m^T Q a_m - b_m^T a_m)   subject to  a <= h,  sum_m a_m = 0,

with Q (T, n, n) positive definite and a, b, h (T, C, n): one variable per class and example.

The Hessian is one block Q repeated for every class, so a Newton step costs C factorisations of
n x n matrices and one more for the equality constraints, not one of a Cn x Cn matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..core import trees

MOST = 60
"""Iterations at most. 5 to 20 are usual, whatever the size."""


class Optimum(NamedTuple):
    """a (T, C, n), and per task (T,): the duality gap, interior-point iterations, convergence.

    The gap bounds how far the objective is above its minimum, and ||a - a*||^2 by twice itself over
    the smallest eigenvalue of Q.
    """

    value: Tensor
    gap: Tensor
    iterations: Tensor
    converged: Tensor


class _Point(NamedTuple):
    """The slack s = h - a > 0, the multipliers z > 0 of a <= h and v (T, n) of sum_m a_m = 0."""

    s: Tensor
    z: Tensor
    v: Tensor


def minimise(q: Tensor, b: Tensor, h: Tensor, *, tolerance: float = 1e-14) -> Optimum:
    """The minimiser in float64, differentiable in q, b and h by the implicit theorem.

    A task has converged when its gap is at or below `tolerance` times the objective's size. The
    gradient comes from the KKT conditions at the minimum, by one linear solve with the matrix of a
    Newton step; nothing is differentiated through the iterations. It exists where strict
    complementarity holds, that is for almost all inputs. Near the others it needs the last digits
    of the minimum, and an iteration more is a hundred times more exact: hence the small tolerance.

    Raises ValueError unless sum_m h_m > 0, without which no a lies inside the constraints.

    Source: Mehrotra 1992 (predictor and corrector); Amos & Kolter 2017 (OptNet), section 3, for the
    gradient, as MetaOptNet uses it (Lee et al. 2019, section 3.2).
    """
    if not (h.sum(1) > 0).all():
        raise ValueError(
            "no point lies strictly inside the constraints a <= h, sum_m a_m = 0: expected upper "
            f"bounds whose sum over the classes is positive, got {float(h.sum(1).min()):g}"
        )
    return Optimum(*_Minimum.apply(q.double(), b.double(), h.double(), tolerance))


class _Minimum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, b, h, tolerance):  # type: ignore[no-untyped-def]
        point, gap, iterations, converged = _interior_point(q, b, h, tolerance)
        a = h - point.s
        ctx.save_for_backward(q, a, point.s, point.z)
        ctx.mark_non_differentiable(gap, iterations, converged)
        return a, gap, iterations, converged

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream, *others):  # type: ignore[no-untyped-def]
        """With (Q + D) u_m + w = upstream_m, sum_m u_m = 0 and D = z / s, the gradients are
        u in b, D u in h, and minus the symmetric part of sum_m u_m a_m^T in Q."""
        q, a, s, z = ctx.saved_tensors
        u, _ = _Newton(q, z / s).solve(upstream, torch.zeros_like(upstream[:, 0]))
        outer = u.transpose(1, 2) @ a
        return -0.5 * (outer + outer.transpose(1, 2)), u, z / s * u, None


class _Newton:
    """The equations of a Newton step: (Q + diag d_m) x_m + v = g_m and sum_m x_m = r."""

    def __init__(self, q: Tensor, d: Tensor):
        self.lower = factor(q.unsqueeze(1) + torch.diag_embed(d))
        self.schur = factor(torch.cholesky_inverse(self.lower).sum(1))

    def solve(self, g: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """x (T, C, n) and v (T, n)."""
        free = torch.cholesky_solve(g.unsqueeze(-1), self.lower).squeeze(-1)
        v = torch.cholesky_solve((free.sum(1) - r).unsqueeze(-1), self.schur)
        pull = torch.cholesky_solve(v.unsqueeze(1).expand_as(g.unsqueeze(-1)), self.lower)
        return free - pull.squeeze(-1), v.squeeze(-1)


def factor(a: Tensor) -> Tensor:
    """The lower Cholesky factors of symmetric matrices (..., n, n); NaN where one is not definite.

    Not an exception: to find out would stall an accelerator, and NaN surfaces in the loss.
    """
    lower, failed = torch.linalg.cholesky_ex(a)
    return torch.where((failed > 0)[..., None, None], torch.nan, lower)


def _interior_point(
    q: Tensor, b: Tensor, h: Tensor, tolerance: float
) -> tuple[_Point, Tensor, Tensor, Tensor]:
    """Primal-dual steps from a feasible point, and its gap; each task stops on its own."""
    point = _start(q, b, h)
    iterations = torch.zeros(len(q), dtype=q.dtype, device=q.device)
    for _ in range(MOST):
        gap, converged = _gap(q, b, h, point, tolerance)
        if converged.all():
            break
        new, moved = _step(q, b, h, point, gap)
        # A task whose matrix cannot be factored any more keeps its last good point.
        moved = moved & ~converged
        if not moved.any():
            break
        point = _Point(
            *(torch.where(trees.rows(moved, y), x, y) for x, y in zip(new, point, strict=True))
        )
        iterations = iterations + moved
    gap, converged = _gap(q, b, h, point, tolerance)
    return point, gap, iterations, converged


def _start(q: Tensor, b: Tensor, h: Tensor) -> _Point:
    """The same slack for every class, and multipliers that fulfil the dual constraints exactly."""
    s = h.mean(1, keepdim=True).expand_as(h)
    slope = b - (h - s) @ q
    low, high = slope.amin(1), slope.amax(1)
    v = low - (high - low) - 1  # so that the multipliers are positive and alike
    return _Point(s, slope - v.unsqueeze(1), v)


def _gap(q: Tensor, b: Tensor, h: Tensor, point: _Point, tolerance: float) -> tuple[Tensor, Tensor]:
    """s^T z is the duality gap: every point is feasible, for the primal and for the dual."""
    gap = (point.s * point.z).flatten(1).sum(1)
    a = h - point.s
    objective = (a * (0.5 * a @ q - b)).flatten(1).sum(1)
    # Written so that NaN counts as not converged.
    return gap, gap <= tolerance * objective.abs()


def _step(q: Tensor, b: Tensor, h: Tensor, point: _Point, gap: Tensor) -> tuple[_Point, Tensor]:
    """Predictor and corrector with one factorisation; which tasks (T,) can use the result."""
    s, z, v = point
    a = h - s
    dual, primal = b - a @ q - z - v.unsqueeze(1), -a.sum(1)  # rounding only
    newton = _Newton(q, z / s)

    def towards(products: Tensor) -> _Point:
        """The step after which s * z would be `products`, to first order."""
        wanted = products - s * z
        da, dv = newton.solve(dual - wanted / s, primal)
        return _Point(-da, (wanted + z * da) / s, dv)

    guess = towards(torch.zeros_like(s))
    length = trees.rows(_length(point, guess), s)
    left = ((s + length * guess.s) * (z + length * guess.z)).flatten(1).sum(1)
    centre = gap / s[0].numel() * (left / gap) ** 3
    step = towards(trees.rows(centre, s) - guess.s * guess.z)
    length = 0.99 * _length(point, step)
    finite = torch.stack([x.flatten(1).isfinite().all(1) for x in step]).all(0)
    new = (x + trees.rows(length, x) * d for x, d in zip(point, step, strict=True))
    return _Point(*new), finite


def _length(point: _Point, step: _Point) -> Tensor:
    """The longest step in [0, 1] that keeps s and z from becoming negative: (T,)."""
    now, change = (torch.cat([x.s, x.z], 1).flatten(1) for x in (point, step))
    limits = torch.where(change < 0, -now / change, torch.inf)
    return limits.amin(1).clamp(max=1.0)

"""Solvers of A v = b for all tasks at once, given only products with A. No branch on data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import trees
from .types import Params

Product = Callable[[Params], Params]


class Solution(NamedTuple):
    """v, and per task (T,): the relative residual ||b - A v|| / ||b||, iterations, convergence."""

    value: Params
    residual: Tensor
    iterations: Tensor
    converged: Tensor


class LinearSolver(ABC):
    """Solves A v = b; leaves are (T, ...) and each task is a system of its own."""

    @abstractmethod
    def solve(self, product: Product, b: Params) -> Solution:
        """`product` maps v to A v, task by task."""

    @abstractmethod
    def describe(self) -> str:
        """The solver in a few words."""


class ConjugateGradient(LinearSolver):
    """At most `steps` iterations of conjugate gradients, for symmetric positive definite A.

    A task stops once its residual is at or below `tolerance` * ||b|| (iMAML's delta'), or when
    p^T A p <= 0 says that A is not positive definite there; then it did not converge.
    Without a tolerance, `converged` says that no such direction was met.

    With `damping` the system is (A + damping I) v = b, and residual and convergence speak of that
    one. It keeps v finite where A is nearly singular or not definite, at the price of a bias
    towards the direction of b: with A = H + lam I, from the implicit gradient at 0 to that of
    first-order MAML, up to scale, when it is large.

    Source: Hestenes & Stiefel 1952; Rajeswaran et al. 2019, algorithm 2; damping: their code.
    """

    def __init__(self, steps: int = 5, *, tolerance: float | None = None, damping: float = 0.0):
        _check_steps(steps)
        _check_tolerance(tolerance)
        if not 0 <= damping < float("inf"):
            raise ValueError(f"expected a damping >= 0, got damping={damping!r}")
        self.steps = steps
        self.tolerance = tolerance
        self.damping = damping

    def solve(self, product: Product, b: Params) -> Solution:
        x, r, p = trees.zeros_like(b), b, b
        rr = scale = trees.dot(b, b)
        bound = scale * (self.tolerance or 0.0) ** 2
        definite = torch.ones_like(rr, dtype=torch.bool)
        count = torch.zeros_like(rr)
        for _ in range(self.steps):
            ap = {k: v + self.damping * p[k] for k, v in product(p).items()}
            curvature = trees.dot(p, ap)
            unsolved = (rr > bound) & definite
            definite = definite & ((curvature > 0) | ~unsolved)
            active = unsolved & definite
            # Both sides of a `where` are evaluated: the denominator must be safe as well.
            alpha = torch.where(active, rr / torch.where(active, curvature, 1), 0)
            x = {k: v + trees.rows(alpha, v) * p[k] for k, v in x.items()}
            r = {k: v - trees.rows(alpha, v) * ap[k] for k, v in r.items()}
            new = trees.dot(r, r)
            beta = torch.where(active, new / torch.where(active, rr, 1), 0)
            p = {k: v + trees.rows(beta, v) * p[k] for k, v in r.items()}
            rr = torch.where(active, new, rr)
            count = count + active
        converged = definite if self.tolerance is None else rr <= bound
        return Solution(x, _relative(rr, scale), count, converged & rr.isfinite())

    def describe(self) -> str:
        until = "" if self.tolerance is None else f" or to {self.tolerance:g}"
        damped = f", damping {self.damping:g}" if self.damping else ""
        return f"conjugate gradients, {self.steps} steps{until}{damped}"


class Neumann(LinearSolver):
    """The partial sum v = rate * sum_{j < steps} (I - rate A)^j b.

    Converges only if rate < 2 / (largest eigenvalue of A), and slowly near that limit; with few
    terms it can be off by tens of per cent, so look at `residual`. A task stops adding terms once
    its residual is at or below `tolerance` * ||b||, and `converged` says that it has got there
    (without a tolerance: below 0.1). With A = H + lam I and rate = 1 / lam this is
    sum (-H / lam)^j b / lam.

    Source: Lorraine et al. 2020, algorithm 3.
    """

    def __init__(self, steps: int, *, rate: float, tolerance: float | None = None):
        _check_steps(steps)
        if not rate > 0:
            raise ValueError(f"expected rate > 0 (1 / lam for a proximal penalty), got {rate!r}")
        _check_tolerance(tolerance)
        self.steps = steps
        self.rate = rate
        self.tolerance = tolerance

    def solve(self, product: Product, b: Params) -> Solution:
        v = {k: self.rate * x for k, x in b.items()}
        scale = trees.dot(b, b)
        count = torch.ones_like(scale)
        for left in reversed(range(self.steps)):
            av = product(v)
            gap = {k: x - av[k] for k, x in b.items()}
            residual = _relative(trees.dot(gap, gap), scale)
            if left == 0:
                break
            # Written so that NaN counts as unsolved: it must surface, not pass for convergence.
            active = ~(residual <= (self.tolerance or 0.0))
            v = {
                k: torch.where(trees.rows(active, x), x + self.rate * gap[k], x)
                for k, x in v.items()
            }
            count = count + active
        converged = residual <= (0.1 if self.tolerance is None else self.tolerance)
        return Solution(v, residual, count, converged)

    def describe(self) -> str:
        until = "" if self.tolerance is None else f" or to {self.tolerance:g}"
        return f"Neumann series, {self.steps} terms{until}"


def _relative(rr: Tensor, scale: Tensor) -> Tensor:
    return (rr / torch.where(scale > 0, scale, 1)).sqrt()


def _check_tolerance(tolerance: float | None) -> None:
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"expected a tolerance > 0 or None, got tolerance={tolerance!r}")


def _check_steps(steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"expected at least one step of the linear solver, got steps={steps!r}")

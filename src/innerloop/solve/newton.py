"""Hessian-free Newton: a direction by conjugate gradients, a length by a line search."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import trees
from ..core.contract import Around
from ..core.linear import ConjugateGradient
from ..core.types import Params
from .solver import Solver

DECREASE = 1e-4
"""The part of the decrease that the slope promises which a step must keep."""
HALVINGS = 20


class NewtonCG(Solver):
    """phi' = phi + a d, where H d = -g is solved by `cg_steps` conjugate gradients.

    g and H are those of the inner objective, penalty included. a is the first of 1, 1/2, 1/4, ...
    with F(phi + a d) <= F(phi) + 1e-4 a <g, d>; a task for which none will do stays where it is.
    Where H has no positive curvature along a conjugate direction, d is what was found before it, or
    -g. Every product with H costs about two gradients, and memory does not depend on the steps.

    The way to phi_K cannot be differentiated, only its end: for `Implicit`.

    Source: Rajeswaran et al. 2019 (iMAML), the Hessian-free variant: 5 conjugate gradients and a
    line search. Their code leaves it out; the rules of the search are those of Nocedal & Wright
    2006, algorithms 3.1 and 7.1.
    """

    searches = True

    def __init__(self, steps: int, *, cg_steps: int = 5, tolerance: float | None = None):
        super().__init__(steps, tolerance)
        self.linear = ConjugateGradient(cg_steps)

    def init(self, phi: Params) -> Params:
        return {}

    def step(
        self, hyper: Params, t: int, phi: Params, grad: Params, losses: Tensor, state: Params
    ) -> tuple[Params, Params]:
        raise ValueError(
            "`NewtonCG` looks at the inner objective around phi, so its gradient alone cannot be "
            "changed or differentiated: use `GradientDescent` there"
        )

    def search(
        self, hyper: Params, t: int, phi: Params, grad: Params, losses: Tensor, around: Around
    ) -> Params:
        down = {k: -v for k, v in grad.items()}
        found = self.linear.solve(around.product, down).value
        falls = trees.dot(grad, found) < 0
        ahead = {k: torch.where(trees.rows(falls, v), v, down[k]) for k, v in found.items()}
        slope = trees.dot(grad, ahead)
        # At the minimum the decrease drowns in rounding, and a full step is still the best one.
        level = losses + 4 * torch.finfo(losses.dtype).eps * losses.abs()
        length = torch.ones_like(slope)
        for _ in range(HALVINGS):
            good = around.losses(_moved(phi, length, ahead)) <= level + DECREASE * length * slope
            if good.all():
                break
            length = torch.where(good, length, length / 2)
        else:
            length = torch.where(good, length, 0)
        return _moved(phi, length, ahead)

    def describe(self) -> str:
        return f"{self._told('Newton')}, {self.linear.describe()}"


def _moved(phi: Params, length: Tensor, ahead: Params) -> Params:
    return {k: v + trees.rows(length, v) * ahead[k] for k, v in phi.items()}

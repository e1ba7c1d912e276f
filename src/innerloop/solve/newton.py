"""Hessian-free Newton: a direction by conjugate gradients, a length by a line search."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import trees
from ..core.contract import Path, Point, Refusal, View
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

    def __init__(self, steps: int, *, cg_steps: int = 5, tolerance: float | None = None):
        super().__init__(steps, tolerance)
        self.linear = ConjugateGradient(cg_steps)

    def init(self, phi: Params) -> Params:
        return {}

    def step(self, hyper: Params, point: Point, view: View) -> Point:
        t, phi, state = point
        view = view.linearised()
        losses, grad = view.losses, view.grad

        def product(v: Params) -> Params:
            return trees.filled(view.product(v)[0], v)

        down = {k: -v for k, v in grad.items()}
        found = self.linear.solve(product, down).value
        falls = trees.dot(grad, found) < 0
        ahead = {k: torch.where(trees.rows(falls, v), v, down[k]) for k, v in found.items()}
        slope = trees.dot(grad, ahead)
        # At the minimum the decrease drowns in rounding, and a full step is still the best one.
        level = losses + 4 * torch.finfo(losses.dtype).eps * losses.abs()
        length = torch.ones_like(slope)
        for _ in range(HALVINGS):
            good = view.at(_moved(phi, length, ahead)) <= level + DECREASE * length * slope
            if good.all():
                break
            length = torch.where(good, length, length / 2)
        else:
            length = torch.where(good, length, 0)
        return Point(t + 1, _moved(phi, length, ahead), state)

    def refuse(self, view: type) -> Refusal | None:
        if view is Path:
            return Refusal(
                "a step that searches (`NewtonCG`) is none along a gradient, so it cannot be "
                "differentiated",
                "Use `Implicit()`, or `GradientDescent`",
            )
        return super().refuse(view)

    def describe(self) -> str:
        return f"{self._told('Newton')}, {self.linear.describe()}"


def _moved(phi: Params, length: Tensor, ahead: Params) -> Params:
    return {k: v + trees.rows(length, v) * ahead[k] for k, v in phi.items()}

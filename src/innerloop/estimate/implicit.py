"""The meta-gradient by the implicit function theorem: only phi_K matters, not the way to it.

At a stationary point d F(meta, phi) / d phi = 0 of the inner objective F, differentiating gives
H_phi,phi dphi + H_phi,meta dmeta = 0, so with b = d outer / d phi

    solve  H_phi,phi v = b ;   G = d outer / d meta - H_meta,phi v.

For F = L + (lam/2) ||phi - phi_0||^2 this is iMAML's (I + H_L / lam)^-1 b.
"""

from __future__ import annotations

import torch

from ..core import trees
from ..core.contract import (
    Estimator,
    Learner,
    MetaGradientFunction,
    Objective,
    Optimum,
    OuterWeights,
    Refusal,
)
from ..core.curvature import Curvature, ReverseOverReverse
from ..core.linear import ConjugateGradient, LinearSolver
from ..core.types import MetaGradient, Params, Task
from .judged import judge
from .memory import remembered


class Implicit(Estimator):
    """iMAML's estimator: memory and time do not depend on the number of inner steps.

    The error is O(delta + delta'): delta the norm of the inner gradient at phi_K (a solver's
    `tolerance`), delta' that of the linear solve (`ConjugateGradient(tolerance=...)`). Both are in
    `stats`: inner_gradient_norm, inner_converged, residual, iterations, converged.

    Source: Rajeswaran et al. 2019, algorithms 1 and 2. Their released code takes gradient steps
    without the penalty, pulls back once, and uses another matrix in CG; this follows the paper.
    """

    needs = Optimum

    def __init__(self, linear: LinearSolver | None = None, curvature: Curvature | None = None):
        self.linear = linear or ConjugateGradient()
        self.curvature = curvature or ReverseOverReverse()

    def on(self, learner: Learner, objective: Objective) -> MetaGradientFunction:
        optimum = self.seen(learner, Optimum)  # type: ignore[type-abstract]
        objective.bind(learner)

        def implicit(meta: Params, tasks: Task, weights: OuterWeights) -> MetaGradient:
            self.look_at_the_end(weights)
            end = optimum.solve(trees.detach(meta), tasks.support)
            weight = weights.at(end.t, last=True)
            judged = judge(learner, objective, meta, end, tasks, weight)
            b = trees.filled(judged.lam, end.phi)
            view = self.curvature.view(
                lambda m, phi: optimum.losses(m, phi, tasks.support), meta, end.phi
            ).linearised()

            def product(v: Params) -> Params:
                return trees.filled(view.product(v)[0], v)

            with torch.no_grad():
                solution = self.linear.solve(product, b)
            h_meta = view.product({k: -v for k, v in solution.value.items()})[1]
            stats = judged.stats | optimum.health(trees.norm(view.grad))
            stats |= {
                "residual": solution.residual,
                "iterations": solution.iterations,
                "converged": solution.converged,
            }
            grads = trees.merge(judged.direct, h_meta)
            loss = weights.of(judged.losses, end.t, last=True).sum()
            return MetaGradient(loss, grads, stats, remembered(learner, end))

        return implicit

    def program(self) -> Refusal | None:
        return Refusal("`Implicit` solves to a tolerance", 'Use engine="eager"')

    def describe(self) -> str:
        return f"implicit, {self.linear.describe()}, {self.curvature.describe()}"

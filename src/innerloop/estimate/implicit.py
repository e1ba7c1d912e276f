"""The meta-gradient by the implicit function theorem: only phi_K matters, not the way to it.

At a stationary point d F(meta, phi) / d phi = 0 of the inner objective F, differentiating gives
H_phi,phi dphi + H_phi,meta dmeta = 0, so with b = d outer / d phi

    solve  H_phi,phi v = b ;   G = d outer / d meta - H_meta,phi v.

For F = L + (lam/2) ||phi - phi_0||^2 this is iMAML's (I + H_L / lam)^-1 b.
"""

from __future__ import annotations

import torch

from ..core import path as loop
from ..core import trees
from ..core.contract import (
    Estimator,
    Learner,
    MetaGradientFunction,
    Objective,
    Optimum,
    OuterWeights,
    Refusal,
    Refused,
)
from ..core.curvature import Curvature, ReverseOverReverse
from ..core.linear import ConjugateGradient, LinearSolver
from ..core.types import MetaGradient, Params, Task
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
            if weights.steps is not None:
                raise Refused(
                    "`Implicit` looks at phi_K only, and this objective has losses at every step. "
                    "Use `Adjoint()`, or `Query(loss)`."
                )
            end = optimum.solve(trees.detach(meta), tasks.support)
            inputs = trees.join(phi=trees.leaves(end.phi), meta=meta)
            with torch.enable_grad():
                at = end._replace(phi=trees.part("phi", inputs))
                outcome = objective.losses(learner, meta, at, tasks)
                losses = weights.of(outcome.losses, end.t, last=True)
                found = trees.gradient(losses, inputs)
            b = trees.filled(trees.part("phi", found), end.phi)
            view = self.curvature.view(
                lambda m, phi: optimum.losses(m, phi, tasks.support), meta, end.phi
            ).linearised()

            def product(v: Params) -> Params:
                return trees.filled(view.product(v)[0], v)

            with torch.no_grad():
                solution = self.linear.solve(product, b)
            h_meta = view.product({k: -v for k, v in solution.value.items()})[1]
            stats = loop.summary(objective, outcome, tasks)
            stats |= optimum.health(trees.norm(view.grad))
            stats |= {
                "residual": solution.residual,
                "iterations": solution.iterations,
                "converged": solution.converged,
            }
            grads = trees.merge(trees.part("meta", found), h_meta)
            return MetaGradient(losses.detach().sum(), grads, stats, remembered(learner, end))

        return implicit

    def program(self) -> Refusal | None:
        return Refusal("`Implicit` solves to a tolerance", 'Use engine="eager"')

    def describe(self) -> str:
        return f"implicit, {self.linear.describe()}, {self.curvature.describe()}"

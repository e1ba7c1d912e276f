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
from ..core.contract import Estimator, IterativeLearner, Learner
from ..core.curvature import Curvature, ReverseOverReverse, Where
from ..core.linear import ConjugateGradient, LinearSolver
from ..core.types import MetaGradient, Params, Task
from .sweep import outer_gradient


class Implicit(Estimator):
    """iMAML's estimator: memory and time do not depend on the number of inner steps.

    The error is O(delta + delta'): delta the norm of the inner gradient at phi_K (a solver's
    `tolerance`), delta' that of the linear solve (`ConjugateGradient(tolerance=...)`). Both are in
    `stats`: inner_gradient_norm, inner_converged, residual, iterations, converged.

    Source: Rajeswaran et al. 2019, algorithms 1 and 2. Their released code takes gradient steps
    without the penalty, pulls back once, and uses another matrix in CG; this follows the paper.
    """

    needs = IterativeLearner
    recordable = False
    end_only = True

    def __init__(self, linear: LinearSolver | None = None, curvature: Curvature | None = None):
        self.linear = linear or ConjugateGradient()
        self.curvature = curvature or ReverseOverReverse()

    def refuse(self, learner: Learner) -> str | None:
        reason = super().refuse(learner)
        if reason is None and isinstance(learner, IterativeLearner) and learner.stationary:
            return f"`Implicit` cannot differentiate {learner.stationary}, or use `Adjoint()`."
        return reason

    def __call__(self, learner: Learner, meta: Params, tasks: Task) -> MetaGradient:
        assert isinstance(learner, IterativeLearner)
        fixed = trees.detach(meta)
        end = loop.last(learner, fixed, tasks.support)
        outcome, b, total = outer_gradient(learner, meta, end.phi, tasks)
        b = trees.add(trees.zeros_like(end.phi), b)
        inner = self.curvature.at(Where(learner, meta, end.t, end.phi, tasks.support))

        def product(v: Params) -> Params:
            return trees.add(trees.zeros_like(v), inner.pull(v, again=True)[0])

        with torch.no_grad():
            solution = self.linear.solve(product, b)
        h_meta = inner.pull({k: -v for k, v in solution.value.items()})[1]
        stats = loop.summary(outcome, tasks)
        stats |= loop.met(learner.tolerance, trees.norm(inner.grad))
        stats |= {
            "residual": solution.residual,
            "iterations": solution.iterations,
            "converged": solution.converged,
        }
        return MetaGradient(outcome.losses.sum(), trees.merge(total, h_meta), stats)

    def describe(self) -> str:
        return f"implicit, {self.linear.describe()}, {self.curvature.describe()}"

"""Bootstrapped targets: be now where more steps would have led."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core import path as loop
from ..core import trees
from ..core.contract import Outcome
from ..core.path import Point
from ..core.types import Params, Task
from ..objective.losses import Loss, LossLike
from ..scope import Scope
from ..solve import Solver
from .gradient import GradientLearner


class BootstrappedLearner(GradientLearner):
    """A `GradientLearner` whose outer loss is the distance to a target that it computes itself.

    target = phi_{K+L-1} - target_lr grad L_query(phi_{K+L-1}),   a constant,
    outer  = KL(p_target || p_phi_K) on the query inputs (classes), or their mean squared distance.

    L = `extra` further steps, the last one along the query loss; the gradient goes through the K
    steps to phi_K only. A solver with state (momentum) starts the further steps afresh. The query
    loss at phi_K is in `stats` as `query_loss`.

    Source: Flennerhag et al. 2022 (bootstrapped meta-learning), matching outputs.
    """

    def __init__(
        self,
        model: nn.Module,
        solver: Solver,
        scope: Scope | None = None,
        *,
        extra: int = 1,
        target_lr: float = 0.1,
        loss: LossLike | Loss = "cross_entropy",
        norm: str | None = None,
    ):
        super().__init__(model, solver, scope, loss=loss, norm=norm)
        if isinstance(extra, bool) or not isinstance(extra, int) or extra < 1:
            raise ValueError(f"expected a number of further steps >= 1, got extra={extra!r}")
        if not target_lr > 0:
            raise ValueError(f"expected target_lr > 0, got {target_lr!r}")
        self.extra = extra
        self.target_lr = target_lr

    def outer(self, meta: Params, phi: Params, task: Task) -> Outcome:
        now = super().outer(meta, phi, task)
        fixed = trees.detach(meta)
        target = self._target(fixed, trees.detach(phi), task)
        with torch.no_grad():
            goal = self.predict(fixed, target, task.query.x, task.support)
        stats = {**now.stats, "query_loss": now.losses.detach()}
        return Outcome(self._distance(goal, now.outputs), now.outputs, stats)

    def _target(self, meta: Params, phi: Params, task: Task) -> Params:
        end = Point(self.steps, phi, self.initial_state(meta, phi))
        for point in loop.advance(self, meta, task.support, end, self.steps + self.extra - 1):
            end = point
        leaves = trees.leaves(end.phi)
        with torch.enable_grad():
            losses = super().outer(meta, leaves, task).losses
            grad = trees.pull([losses], leaves, [torch.ones_like(losses)])
        return {k: v - self.target_lr * grad[k] if k in grad else v for k, v in end.phi.items()}

    def _distance(self, goal: Tensor, outputs: Tensor) -> Tensor:
        """(T,) from outputs (T, n, ...)."""
        if self.kind == "classification":
            wanted, found = goal.log_softmax(2), outputs.log_softmax(2)
            return (wanted.exp() * (wanted - found)).sum(2).flatten(1).mean(1)
        return (outputs - goal).square().flatten(1).mean(1)

    def describe(self) -> dict[str, str]:
        told = super().describe()
        return {**told, "loss": f"{told['loss']}, bootstrapped {self.extra} steps ahead"}

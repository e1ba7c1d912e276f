"""Bootstrapped targets: be now where more steps would have led."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import path as loop
from ..core import trees
from ..core.checks import positive, whole
from ..core.contract import Learner, Outcome, Path, Point, Refusal, Refused
from ..core.types import Params, Task
from .losses import Distance, Loss, LossLike, as_loss
from .metrics import mean, prediction
from .query import Query


class Bootstrapped(Query):
    """The distance of phi_K's outputs to those of a target that is computed, not given.

    target = phi_{K+L-1} - target_lr grad L_query(phi_{K+L-1}),   a constant,
    outer  = KL(p_target || p_phi_K) on the query inputs ("kl"), or their mean squared distance.

    L = `extra` further steps, the last one along the query loss; the gradient goes through the K
    steps to phi_K only. A solver with state (momentum) starts the further steps afresh. The query
    loss at phi_K is in `stats` as `query_loss`.

    Raises ValueError where it is not known how outputs of this loss are compared, and none is given
    as `distance`.

    Source: Flennerhag et al. 2022 (bootstrapped meta-learning), matching outputs.
    """

    def __init__(
        self,
        loss: LossLike | Loss = "cross_entropy",
        *,
        extra: int = 1,
        target_lr: float = 0.1,
        distance: Distance | None = None,
    ):
        chosen = as_loss(loss)
        super().__init__(chosen)
        self.extra = whole("extra", extra)
        self.target_lr = positive("target_lr", target_lr)
        found = distance or chosen.distance
        if found not in ("kl", "squared"):
            raise ValueError(
                f"a bootstrapped target compares outputs, and how is not known for the loss "
                f'{chosen.name}: say distance="kl" (the outputs are logits of classes) or '
                'distance="squared"'
            )
        self.distance: Distance = found

    def bind(self, learner: Learner) -> None:
        found = learner.offer(Path)  # type: ignore[type-abstract]
        if isinstance(found, Refusal):
            raise Refused(
                f"`Bootstrapped` goes some steps further than the learner, and "
                f"`{type(learner).__name__}` has none: {found.reason}. Use `Query(loss)`."
            )

    def losses(self, learner: Learner, meta: Params, point: Point, task: Task) -> Outcome:
        now = super().losses(learner, meta, point, task)
        fixed = trees.detach(meta)
        target = self._target(learner, fixed, point, task)
        with torch.no_grad():
            goal = learner.predict(fixed, target, task.query.x, task.support)
        distance = self._distance(prediction(goal), prediction(now.outputs), task.query.weight)
        return now._replace(losses=distance)

    def _target(self, learner: Learner, meta: Params, point: Point, task: Task) -> Point:
        path = learner.offer(Path)  # type: ignore[type-abstract]
        assert isinstance(path, Path), "bind has looked"
        begin = loop.begin(path, meta, task.support)
        # The state at phi_0 in place of the last one: zeros, or what outlives tasks.
        end = Point(point.t, trees.detach(point.phi), begin.state)
        for further in loop.advance(path, meta, task.support, end, point.t + self.extra - 1):
            end = further
        leaves = trees.leaves(end.phi)
        with torch.enable_grad():
            losses = super().losses(learner, meta, end._replace(phi=leaves), task).losses
            grad = trees.gradient(losses, leaves)
        return end._replace(
            phi={k: v - self.target_lr * grad[k] if k in grad else v for k, v in end.phi.items()}
        )

    def _distance(self, goal: Tensor, outputs: Tensor, weight: Tensor | None) -> Tensor:
        """(T,) from outputs (T, n, ...), examples counted by `weight` (T, n)."""
        if self.distance == "kl":
            wanted, found = goal.log_softmax(2), outputs.log_softmax(2)
            return mean((wanted.exp() * (wanted - found)).sum(2), None, weight)
        return mean((outputs - goal).square(), None, weight)

    def describe(self) -> str:
        return f"{self.loss.name}, bootstrapped {self.extra} steps ahead"

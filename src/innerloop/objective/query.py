"""Outer objectives: the query loss at phi_K, by a loss or by any code, and what wraps another."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..core.contract import (
    Learner,
    Metric,
    Models,
    Network,
    Objective,
    Outcome,
    Point,
    Refusal,
    Refused,
)
from ..core.types import Batch, Params, Task, Tree
from .losses import Loss, LossLike, as_loss
from .metrics import as_metric
from .terms import ModelFunction


class Query(Objective):
    """L(phi_K, query): the loss of the query set after adaptation.

    `metric` replaces the loss's own; a name or a `Metric`.
    """

    def __init__(
        self, loss: LossLike | Loss = "cross_entropy", *, metric: str | Metric | None = None
    ):
        super().__init__()
        self.loss = as_loss(loss)
        self.metric = self.loss.metric if metric is None else as_metric(metric)

    def losses(self, learner: Learner, meta: Params, point: Point, task: Task) -> Outcome:
        outputs = learner.predict(meta, point, task.query.x, task.support)
        losses = self.loss(outputs, task.query)
        return Outcome(losses, outputs, {"query_loss": losses.detach()})

    def describe(self) -> str:
        return self.loss.name


class ComputedQuery(Objective):
    """f(model with phi_K, query batch) of each task, by any differentiable code.

    Without a `metric` the loss itself is reported.
    """

    def __init__(self, function: ModelFunction, *, metric: str | Metric | None = None):
        super().__init__()
        self.function = function
        name = getattr(function, "__name__", type(function).__name__)
        self.name = name if name.isidentifier() else "loss"
        if metric is None:
            self._predicts = False
            self.metric = Metric("query_loss", False, _itself)
        else:
            self._predicts = True
            self.metric = as_metric(metric)

    def losses(self, learner: Learner, meta: Params, point: Point, task: Task) -> Outcome:
        models = learner.offer(Models)  # type: ignore[type-abstract]
        assert isinstance(models, Models), "bind has looked"
        losses = models.apply(meta, point, self.function, task.query, "query")
        outputs: Any = losses.detach()
        if self._predicts:
            outputs = learner.predict(meta, point, task.query.x, task.support)
        return Outcome(losses, outputs, {"query_loss": losses.detach()})

    def bind(self, learner: Learner) -> None:
        found = learner.offer(Models)  # type: ignore[type-abstract]
        if isinstance(found, Refusal):
            raise Refused(
                f"`ComputedQuery` calls the adapted model, and `{type(learner).__name__}` does not "
                f"give it: {found.reason}. Use `Query(loss)`."
            )

    def describe(self) -> str:
        return self.name


def _itself(losses: Tree, batch: Batch) -> Tensor:
    """The losses, where outputs are unknown and stand for nothing else."""
    found: Tensor = losses
    return found


class Wrapped(Objective):
    """An objective that changes one thing about another one, `objective`."""

    def __init__(self, objective: Objective):
        super().__init__()
        if not isinstance(objective, Objective):
            raise ValueError(
                f'expected the objective to change, such as Query("mse"), got '
                f"{type(objective).__name__}"
            )
        self.objective = objective
        self.metric = objective.metric

    def weights(self, steps: int, progress: float) -> Tensor | None:
        return self.objective.weights(steps, progress)

    def losses(self, learner: Learner, meta: Params, point: Point, task: Task) -> Outcome:
        return self.objective.losses(learner, meta, point, task)

    def bind(self, learner: Learner) -> None:
        self.objective.bind(learner)

    def beside(self, learner: Learner, meta: Params, labelled: Batch) -> tuple[Tensor, Params]:
        return self.objective.beside(learner, meta, labelled)

    def wants_labelled(self) -> bool:
        return self.objective.wants_labelled()

    def calls(self) -> list[Network]:
        return self.objective.calls()

    def describe(self) -> str:
        return self.objective.describe()

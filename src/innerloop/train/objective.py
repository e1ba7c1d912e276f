"""What the outer loop descends: the loss of the tasks, of their groups, of examples beside them."""

from __future__ import annotations

from typing import Any

from ..core import streams
from ..core.types import Batch, MetaGradient
from ..data.source import Splits, Tasks
from .baseline import Trainable
from .ranks import Ranks
from .settings import Settings
from .task_weights import TaskWeights


class OuterProblem:
    """The mean query loss; weighted by task group (`robust_lr`), plus a discriminator's loss.

    Step i draws the labelled examples of a discriminator from the stream (seed, "auxiliary", i).
    Every rank takes all of them, so that the mean over ranks holds their gradient once.

    Raises ValueError for groups that the source does not have, for a method that wants labelled
    examples where `splits` has none, and for examples that no method wants.
    """

    def __init__(
        self, method: Trainable, splits: Splits, settings: Settings, seed: int, ranks: Ranks
    ) -> None:
        wants = method.objective.wants_labelled()
        if wants != (splits.auxiliary is not None):
            raise ValueError(
                f"{method.name} has a discriminator, which needs labelled examples: expected "
                "Splits(..., auxiliary=a source of them), got none"
                if wants
                else f"expected a method with a discriminator (deml) for the labelled examples of "
                f"Splits(..., auxiliary=...), got {method.name}"
            )
        self._method, self._splits, self._seed, self._ranks = method, splits, seed, ranks
        self._wants_labelled = wants
        self._tasks = settings.meta_batch
        self.weights: TaskWeights | None = None
        if settings.robust_lr is not None:
            if not splits.train.groups:
                splits.train.task_groups(streams.generator(seed, "train", 0), 1)
            self.weights = TaskWeights(
                splits.train.groups, lr=settings.robust_lr, update=settings.robust_update
            )

    def meta_gradient(self, step: int, own: Tasks, progress: float) -> MetaGradient:
        """At this step, of this rank's tasks."""
        weight = None
        if self.weights is not None:
            first, stop = self._ranks.bounds(self._tasks)
            weight = self.weights.factors(self._groups(step)[first:stop])
        labelled = self._labelled(step) if self._wants_labelled else None
        return self._method.meta_gradient(own, progress=progress, weight=weight, labelled=labelled)

    def ascend(self, step: int, result: MetaGradient) -> None:
        """Let the weights of the groups, if any, follow the losses of all tasks of this step."""
        if self.weights is not None:
            self.weights.step(result.stats["loss"], self._groups(step))

    def numbers(self) -> dict[str, Any]:
        """What a record of the run says of the weights."""
        if self.weights is None:
            return {}
        p = dict(zip(self.weights.groups, self.weights.p.tolist(), strict=True))
        heaviest = max(p, key=lambda name: p[name])
        return {"heaviest_group": heaviest, "heaviest_weight": p[heaviest]}

    def state_dict(self) -> dict[str, Any]:
        return {} if self.weights is None else {"task_weights": self.weights.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what is its own from a run's state."""
        if self.weights is not None:
            self.weights.load_state_dict(state["task_weights"])

    def _groups(self, step: int) -> Any:
        stream = streams.generator(self._seed, "train", step)
        return self._splits.train.task_groups(stream, self._tasks)

    def _labelled(self, step: int) -> Batch:
        """Examples (N, ...) with their lasting classes (N,)."""
        assert self._splits.auxiliary is not None
        stream = streams.generator(self._seed, "auxiliary", step)
        drawn = self._splits.auxiliary.sample(stream, 1).query
        return Batch(drawn.x.flatten(0, 1), drawn.y.flatten(0, 1))

"""What meta-learning has to beat: conventional training on all training tasks, then fine-tuning."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ..core.contract import Learner, Objective
from ..core.types import Batch, MetaGradient, Task
from ..data.source import Source, Spec, Tasks
from ..method import Method


class Pretrained(nn.Module):
    """A network trained on everything at once; a new task fine-tunes it from there.

    `joint` is trained: a method without inner steps, so that its meta-gradient is the ordinary
    gradient. `tune` adapts: a method on a network that shares all weights of `joint`'s, or its body
    under a head of its own, which stays as it was initialised (a fresh head for every task).
    It has the public surface of a `Method`.
    """

    def __init__(self, joint: Method, tune: Method) -> None:
        super().__init__()
        self.joint, self.tune = joint, tune
        self.name = "pretrained"

    @property
    def learner(self) -> Learner:
        """The learner that adapts."""
        return self.tune.learner

    @property
    def objective(self) -> Objective:
        """What it is scored by."""
        return self.tune.objective

    @property
    def steps(self) -> int:
        """The inner steps of the fine-tuning."""
        return self.tune.steps

    def meta_gradient(
        self,
        tasks: Tasks,
        *,
        progress: float = 0.0,
        weight: Tensor | None = None,
        labelled: Batch | None = None,
    ) -> MetaGradient:
        """The gradient of the mean loss over the query sets of `tasks`, without adaptation.

        All else as `Method.meta_gradient`.
        """
        result = self.joint.meta_gradient(
            tasks, progress=progress, weight=weight, labelled=labelled
        )
        known = {f"joint.{k}": g for k, g in result.grads.items()}
        trained = {k: p for k, p in self.named_parameters() if p.requires_grad}
        grads = {k: known[k] if k in known else torch.zeros_like(p) for k, p in trained.items()}
        return MetaGradient(result.loss, grads, result.stats)

    def commit(self, found: MetaGradient) -> None:
        """As `Method.commit`: nothing outlives the tasks."""

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> nn.Module:
        """The network fine-tuned on one support set."""
        return self.tune.adapt(support_x, support_y, steps)

    def query_outputs(self, tasks: Task, steps: int | None = None) -> Tensor:
        """As `Method.query_outputs`: (S + 1, T, n, ...)."""
        return self.tune.query_outputs(tasks, steps)

    def trajectory(self, support: Batch, steps: int | None = None) -> list[Any]:
        """As `Method.trajectory`."""
        return self.tune.trajectory(support, steps)

    def describe(self) -> dict[str, str]:
        """The fine-tuning in words, and that nothing was meta-learned."""
        return {**self.tune.describe(), "method": self.name, "estimator": "joint training"}


Trainable = Method | Pretrained
"""What the outer loop can train and a run can be scored on."""


class Pooled(Source):
    """Regression tasks as one joint data set: support and query points together are the query."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.spec = source.spec

    def sample(self, generator: torch.Generator, n: int) -> Task:
        """`n` tasks whose query holds all their points."""
        support, query = self._source.sample(generator, n)
        everything = Batch(
            torch.cat([support.x, query.x], dim=1), torch.cat([support.y, query.y], dim=1)
        )
        return Task(support, everything)

    def describe(self) -> dict[str, str]:
        """As the source that is pooled."""
        return {**self._source.describe(), "tasks": "pooled"}


class _Episodes(Protocol):
    pool: Any

    def draw(self, generator: torch.Generator, n: int) -> Any: ...


class AllClasses(Source):
    """The images of few-shot tasks, labelled with the class they have in the whole pool.

    One task of n x way x (shot + queries) images and as many classes as the pool has; `source` is
    an `Episodes`, whose augmentation is kept.
    """

    def __init__(self, source: Source) -> None:
        if not hasattr(source, "pool") or not hasattr(source, "draw"):
            raise ValueError(
                f"pre-training needs classes that last beyond a task; {type(source).__name__} has "
                "none. Use a source of images, or a regression source"
            )
        self._source = source
        self._episodes = cast(_Episodes, source)
        classes = self._episodes.pool.n_classes
        self.spec = Spec("classification", source.spec.x_shape, classes)

    def sample(self, generator: torch.Generator, n: int) -> Task:
        """One task that holds the images of `n` tasks of the source."""
        before = generator.get_state()
        classes = self._episodes.draw(generator, n).classes
        generator.set_state(before)
        support, query = self._source.sample(generator, n)
        x = torch.cat([support.x, query.x], dim=1).flatten(0, 1)
        local = torch.cat([support.y, query.y], dim=1)
        y = classes.to(local.device).gather(1, local).flatten()
        batch = Batch(x.unsqueeze(0), y.unsqueeze(0))
        return Task(batch, batch)

    def describe(self) -> dict[str, str]:
        """As the source that is pooled."""
        return {**self._source.describe(), "tasks": "all classes at once"}

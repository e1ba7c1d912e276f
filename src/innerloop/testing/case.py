"""One row of the conformance suite: a composition, and the data it runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..core.contract import Estimator, Learner, Objective
from ..core.types import Batch, Task
from ..estimate import Unrolled
from ..learn import GradientLearner, StepExamples
from ..objective import Loss, Query, Term
from ..objective.losses import LossLike
from ..scope import Scope
from ..solve import Solver

Labels = Literal["classes", "values", "bits", "pixels"]
Inputs = Literal["numbers", "indices"]


@dataclass(frozen=True)
class Case:
    """One composition with the data it runs on. Pieces are functions that make them afresh.

    `shape` is that of one example, `inputs` says whether examples are numbers or indices below 8;
    `tasks_of` draws other data. `loss` is the inner fit and the outer loss; `terms` are added
    inside, or stand in the place of the fit with `fit=False`; `objective` makes another outer
    objective of the loss. `forward_mode` is False where torch has no forward-mode rule for a layer:
    then `ForwardOverReverse` must raise. `converged` marks problems that are solved to the end, on
    which the implicit gradient must agree as well. `step` is that of the finite differences.
    `constant_target` marks an outer loss with a part that depends on the weights and is held
    constant: central differences see it move, so estimators are only compared with each other.
    `estimator` is the one that is held against central differences: `Unrolled`, but for a way that
    cannot be differentiated.
    """

    name: str
    model: Callable[[], nn.Module]
    solver: Callable[[], Solver]
    shape: tuple[int, ...] = (2,)
    labels: Labels = "classes"
    loss: LossLike | Loss = "cross_entropy"
    scope: Callable[[], Scope] | None = None
    norm: str | None = None
    terms: Callable[[], list[Term]] | None = None
    fit: bool = True
    examples: StepExamples | None = None
    objective: Callable[[LossLike | Loss], Objective] = Query
    inputs: Inputs = "numbers"
    tasks_of: Callable[[int], Task] | None = None
    forward_mode: bool = True
    converged: bool = False
    constant_target: bool = False
    step: float = 1e-5
    estimator: Callable[[], Estimator] = Unrolled

    def learner(self) -> GradientLearner:
        """A fresh learner in float64: the same weights every time."""
        inner = [self.loss] if self.fit else []
        learner = GradientLearner(
            fresh(self.model),
            self.solver(),
            self.scope() if self.scope else None,
            inner=[*inner, *(self.terms() if self.terms else [])],
            norm=self.norm,
            examples=self.examples,
        ).double()
        return lively(learner)

    def judged_by(self) -> Objective:
        """A fresh outer objective."""
        return self.objective(self.loss)

    def tasks(self, count: int = 3) -> Task:
        """`count` tasks of 6 support and 5 query examples in float64."""
        if self.tasks_of is not None:
            return self.tasks_of(count)
        return draw(count, self.shape, self.labels, self.inputs)


@dataclass(frozen=True)
class FeatureCase:
    """A learner that adapts at once, with the data it runs on; fields as of `Case`.

    `make` gets the model. Nothing is adapted step by step, so `Unrolled` is the only estimator.
    """

    name: str
    model: Callable[[], nn.Module]
    make: Callable[[nn.Module], Learner]
    shape: tuple[int, ...] = (2,)
    labels: Labels = "classes"
    loss: LossLike | Loss = "cross_entropy"
    step: float = 1e-5

    def learner(self) -> Learner:
        """A fresh learner in float64: the same weights every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a learner may draw weights of its own
            return self.make(fresh(self.model)).double()

    def judged_by(self) -> Objective:
        """A fresh outer objective."""
        return Query(self.loss)

    def tasks(self, count: int = 3) -> Task:
        """`count` tasks of 6 support and 5 query examples in float64."""
        return draw(count, self.shape, self.labels, "numbers")


def lively(learner: GradientLearner) -> GradientLearner:
    """What scope and terms learn, away from its first values: special ones hide mistakes."""
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for piece in (learner.scope, learner.inner):
            for p in piece.parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=generator).to(p))
    return learner


def fresh(make: Callable[[], nn.Module]) -> nn.Module:
    """A model in float64: the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().double()
        with torch.no_grad():
            for p in model.parameters():
                # Fresh affine parameters are ones and zeros: special values hide mistakes.
                p.add_(0.3 * torch.randn_like(p))
    return model


def draw(count: int, shape: tuple[int, ...], labels: Labels, inputs: Inputs) -> Task:
    """`count` tasks of 6 support and 5 query examples in float64: the same every time."""
    generator = torch.Generator().manual_seed(1)

    def batch(n: int) -> Batch:
        size = (count, n, *shape)
        x = torch.randn(size, generator=generator, dtype=torch.float64)
        if inputs == "indices":
            x = torch.randint(8, size, generator=generator)
        return Batch(x, targets(n))

    def targets(n: int) -> Tensor:
        if labels == "classes":
            rows = [torch.randperm(n, generator=generator) % 3 for _ in range(count)]
            return torch.stack(rows)
        if labels == "pixels":
            return torch.randint(3, (count, n, *shape[1:]), generator=generator)
        values = torch.randn(count, n, 3, generator=generator, dtype=torch.float64)
        return values if labels == "values" else (values > 0).double()

    return Task(batch(6), batch(5))

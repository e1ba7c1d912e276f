"""Rows that put pieces of all four choices together, and what stands outside the usual path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..core import streams
from ..core.contract import Learner, Outcome, Path, Point
from ..core.types import Batch, Params, Task
from ..estimate import ConjugateGradient, Implicit
from ..learn import Collected, InOrder
from ..objective import (
    Bootstrapped,
    Computed,
    Decay,
    MultiStep,
    Proximal,
    Query,
    Weighted,
)
from ..scope import All, Only, PerStep, Prototypes
from ..solve import AdamW, Clip, GradientDescent, NewtonCG, PerParameter
from . import models
from .case import Case, draw
from .solvers import SOLVERS, solver_of


def compositions() -> Iterator[Case]:
    yield from _four_choices()
    yield from _inner_terms()
    yield from _inputs()
    yield from _ends()


def _four_choices() -> Iterator[Case]:
    affine = models.FLAT["BatchNorm, affine"]
    yield Case(
        "BatchNorm, affine / Adam / prototypes, proximal, multi-step",
        affine,
        SOLVERS["Adam"],
        scope=lambda: Prototypes(All(), "3"),
        terms=lambda: [Proximal(0.7)],
        objective=lambda loss: MultiStep(Query(loss)),
    )
    yield Case(
        "BatchNorm, affine / momentum / norm per step, bootstrapped",
        affine,
        SOLVERS["momentum"],
        scope=lambda: PerStep(All()),
        objective=lambda loss: Bootstrapped(loss, extra=2),
        constant_target=True,
    )
    yield Case(
        "BatchNorm, affine / gradient descent, rate per parameter / norm per step, entropy change",
        affine,
        lambda: solver_of("gradient descent", PerParameter),
        scope=lambda: PerStep(All()),
        objective=EntropyChange,
    )
    yield Case(
        "LayerNorm / gradient descent, clipped",
        models.FLAT["LayerNorm"],
        lambda: Clip(GradientDescent(0.4, 3), 0.3),
    )
    yield Case(
        "LayerNorm / AdamW", models.FLAT["LayerNorm"], lambda: AdamW(0.1, 3, decay=0.3, eps=0.05)
    )


class EntropyChange(Query):
    """L_query(phi_K) + [H(outputs at phi_K) - H(outputs at phi_0)] / 2: TAML's entropy term.

    Source: Jamal & Qi 2019 (TAML).
    """

    def losses(self, learner: Learner, meta: Params, point: Point, task: Task) -> Outcome:
        after = super().losses(learner, meta, point, task)
        path = learner.offer(Path)  # type: ignore[type-abstract]
        assert isinstance(path, Path)
        start = path.start(meta, task.support)
        before = learner.predict(meta, start, task.query.x, task.support)
        change = entropy(after.outputs) - entropy(before)
        return after._replace(losses=after.losses + 0.5 * change)


def entropy(outputs: Tensor) -> Tensor:
    """The mean entropy of each task's predictions: (T,)."""
    logs = outputs.log_softmax(2)
    return -(logs.exp() * logs).sum(2).mean(1)


def _inner_terms() -> Iterator[Case]:
    plain, descent = models.FLAT["perceptron"], SOLVERS["gradient descent"]
    yield Case(
        "perceptron / gradient descent / weight decay, learned",
        plain,
        descent,
        terms=lambda: [Decay(0.3, learned=True)],
    )
    yield Case(
        "perceptron / gradient descent / learned weights of examples",
        plain,
        descent,
        terms=lambda: [Weighted(weigher())],
        fit=False,
    )
    yield Case(
        "perceptron / gradient descent / examples collected with phi_t",
        plain,
        descent,
        examples=Collected(rollouts),
    )
    yield Case(
        "perceptron / momentum / examples in order", plain, SOLVERS["momentum"], examples=InOrder(2)
    )
    yield Case(
        "smooth perceptron / gradient descent / physics-informed",
        models.scalar_field,
        lambda: GradientDescent(0.05, 3),
        (1,),
        "values",
        "mse",
        tasks_of=curves,
        terms=lambda: [Computed(residual)],
        fit=False,
    )
    yield Case(
        "perceptron / gradient descent / two forward passes",
        plain,
        descent,
        terms=lambda: [Computed(consistency)],
    )


def weigher() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return nn.Linear(2, 1).double()


def rollouts(learner: Any, meta: Params, point: Point, support: Batch) -> Batch:
    """Labels drawn from the model's own distribution at phi_t, moved off where they are wrong."""
    outputs = learner.predict(meta, point, support.x, support)
    stream = streams.generator(0, "rollout", point.t)
    # The same uniform numbers for every task: what a task draws must not depend on its neighbours.
    chance = torch.rand(outputs.shape[1], 1, generator=stream, dtype=outputs.dtype)
    drawn = (outputs.softmax(2).cumsum(2) < chance).sum(2).clamp(max=2)
    return Batch(support.x, torch.where(drawn == support.y, drawn, (drawn + 1) % 3))


def residual(model: nn.Module, batch: Batch) -> Tensor:
    """u' + y u = 0 with the task's own y, and u(0) = 1: a derivative in x inside the loss."""
    x = batch.x.detach().requires_grad_()
    u = model(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    start = model(torch.zeros_like(x[:1]))
    return (slope + batch.y * u).square().mean() + (start - 1).square().mean()


def consistency(model: nn.Module, batch: Batch) -> Tensor:
    """The outputs of an example and of its mirror image are to agree: no labels."""
    return (model(batch.x) - model(-batch.x)).square().mean()


def curves(tasks: int) -> Task:
    """Points in [0, 1] with the constant of the task's equation; queries with its solution."""
    generator = torch.Generator().manual_seed(8)
    rate = torch.rand(tasks, 1, 1, generator=generator, dtype=torch.float64) + 0.5
    x = torch.rand(tasks, 6, 1, generator=generator, dtype=torch.float64)
    q = torch.rand(tasks, 5, 1, generator=generator, dtype=torch.float64)
    return Task(Batch(x, rate.expand(x.shape)), Batch(q, torch.exp(-rate * q)))


def _inputs() -> Iterator[Case]:
    yield Case(
        "masked mean of words / gradient descent / dictionary of ids and mask",
        models.MaskedWords,
        SOLVERS["gradient descent"],
        tasks_of=sentences,
    )
    yield Case(
        "perceptron / gradient descent / weights per example",
        models.FLAT["perceptron"],
        SOLVERS["gradient descent"],
        tasks_of=weighted,
    )
    yield Case(
        "frozen base with low-rank adapters / Adam",
        models.low_rank,
        SOLVERS["Adam"],
        scope=lambda: Only("*.down", "*.up"),
    )


def sentences(tasks: int) -> Task:
    """Four words per sentence, of which the last ones may be masked."""
    generator = torch.Generator().manual_seed(9)

    def masked(batch: Batch) -> Batch:
        length = torch.randint(1, 5, batch.x.shape[:2], generator=generator)
        mask = (torch.arange(4) < length.unsqueeze(-1)).double()
        return Batch({"ids": batch.x, "mask": mask}, batch.y)

    return Task(*map(masked, draw(tasks, (4,), "classes", "indices")))


def weighted(tasks: int) -> Task:
    """Every example with a weight of its own; one of each task with none."""
    generator = torch.Generator().manual_seed(10)

    def weighed(batch: Batch) -> Batch:
        weight = torch.rand(batch.x.shape[:2], generator=generator, dtype=torch.float64)
        weight[:, 0] = 0.0
        return batch._replace(weight=weight)

    return Task(*map(weighed, draw(tasks, (2,), "classes", "numbers")))


def _ends() -> Iterator[Case]:
    """A way that cannot be differentiated: only its end, by the implicit function theorem."""

    def implicit() -> Implicit:
        return Implicit(ConjugateGradient(60))

    yield Case(
        "perceptron / Newton / proximal",
        models.FLAT["perceptron"],
        lambda: NewtonCG(12, cg_steps=40),
        terms=lambda: [Proximal(2.0)],
        estimator=implicit,
    )
    yield Case(
        "perceptron / Newton to a tolerance / weight decay, learned",
        models.FLAT["perceptron"],
        lambda: NewtonCG(40, cg_steps=40, tolerance=1e-10),
        scope=lambda: Only("2.*"),
        terms=lambda: [Decay(0.5, learned=True)],
        estimator=implicit,
    )

"""The table of compositions: model x solver x rate x scope x penalty x loss. A piece is a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.types import Batch, Params, Task
from ..learn import GradientLearner
from ..learn.losses import Loss, LossLike, per_task
from ..scope import Context, Except, Only, Scope
from ..solve import (
    Adam,
    Fixed,
    GradientDescent,
    Momentum,
    PerLayer,
    PerLayerPerStep,
    PerParameter,
    Proximal,
    Rate,
    Scalar,
    Solver,
)
from . import models

Labels = Literal["classes", "values", "bits", "pixels"]


@dataclass(frozen=True)
class Case:
    """One composition with the data it runs on.

    `shape` is that of one example, `inputs` says whether examples are numbers or indices below 8.
    `forward_mode` is False where torch has no forward-mode rule for a layer: then
    `ForwardOverReverse` must raise. `converged` marks proximal problems that are solved to the end,
    on which the implicit gradient must agree as well. `step` is that of the finite differences.
    """

    name: str
    model: Callable[[], nn.Module]
    solver: Callable[[], Solver]
    shape: tuple[int, ...] = (2,)
    labels: Labels = "classes"
    loss: LossLike | Loss = "cross_entropy"
    scope: Scope | None = None
    norm: str | None = None
    penalty: Callable[[], Proximal] | None = None
    regulariser: Callable[[Params], Tensor] | None = None
    batch_size: int | None = None
    inputs: Literal["numbers", "indices"] = "numbers"
    forward_mode: bool = True
    converged: bool = False
    step: float = 1e-5

    def learner(self) -> GradientLearner:
        """A fresh learner in float64: the same weights every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.model().double()
            with torch.no_grad():
                for p in model.parameters():
                    # Fresh affine parameters are ones and zeros: special values hide mistakes.
                    p.add_(0.3 * torch.randn_like(p))
        return GradientLearner(
            model,
            self.solver(),
            self.scope,
            loss=self.loss,
            norm=self.norm,
            penalty=self.penalty() if self.penalty else None,
            regulariser=self.regulariser,
            batch_size=self.batch_size,
        ).double()

    def tasks(self, count: int = 3) -> Task:
        """`count` tasks of 6 support and 5 query examples in float64."""
        generator = torch.Generator().manual_seed(1)

        def batch(n: int) -> Batch:
            size = (count, n, *self.shape)
            x = torch.randn(size, generator=generator, dtype=torch.float64)
            if self.inputs == "indices":
                x = torch.randint(8, size, generator=generator)
            return Batch(x, self._labels(count, n, generator))

        return Task(batch(6), batch(5))

    def _labels(self, count: int, n: int, generator: torch.Generator) -> Tensor:
        if self.labels == "classes":
            rows = [torch.randperm(n, generator=generator) % 3 for _ in range(count)]
            return torch.stack(rows)
        if self.labels == "pixels":
            return torch.randint(3, (count, n, *self.shape[1:]), generator=generator)
        values = torch.randn(count, n, 3, generator=generator, dtype=torch.float64)
        return values if self.labels == "values" else (values > 0).double()


def _solver(name: str, rate: Callable[[float], Rate]) -> Solver:
    """Three steps of the solver called `name`."""
    if name == "gradient descent":
        return GradientDescent(rate(0.4), 3)
    if name == "Adam":
        return Adam(rate(0.1), 3, betas=(0.8, 0.95), eps=0.05)
    return Momentum(rate(0.2), 3, beta=0.7, nesterov=name == "Nesterov")


SOLVERS: dict[str, Callable[[], Solver]] = {
    name: partial(_solver, name, Fixed)
    for name in ("gradient descent", "momentum", "Nesterov", "Adam")
}

NO_FORWARD_MODE = {"GroupNorm", "GroupNorm, maps"}
"""torch 2.13 has no forward-mode rule for the backward pass of these."""


def cases() -> list[Case]:
    """Every composition of the suite, each with its own name."""
    table = [*_layers(), *_rates(), *_scopes(), *_objectives(), *_losses()]
    names = [case.name for case in table]
    assert len(set(names)) == len(names), "two cases of one name"
    return table


def _layers() -> Iterator[Case]:
    """Every kind of layer under every solver."""
    zoos: list[tuple[dict[str, Callable[[], nn.Module]], tuple[int, ...]]] = [
        (models.FLAT, (2,)),
        (models.PICTURES, (1, 6, 6)),
        (models.SEQUENCES, (3, 2)),
    ]
    for zoo, shape in zoos:
        for layer, model in zoo.items():
            for name, solver in SOLVERS.items():
                yield Case(
                    f"{layer} / {name}",
                    model,
                    solver,
                    shape,
                    forward_mode=layer not in NO_FORWARD_MODE,
                )
    yield Case(
        "embedding / gradient descent",
        models.Words,
        SOLVERS["gradient descent"],
        (4,),
        inputs="indices",
    )


def _rates() -> Iterator[Case]:
    """Every learned rate under every solver."""
    model = models.FLAT["BatchNorm, affine"]
    rates: dict[str, Callable[[float], Rate]] = {
        "scalar": Scalar,
        "per layer": PerLayer,
        "per parameter": PerParameter,
        "per layer per step": PerLayerPerStep,
    }
    for told, rate in rates.items():
        for name in SOLVERS:
            solver = partial(_solver, name, rate)
            yield Case(f"BatchNorm, affine / {name}, rate {told}", model, solver)


def _scopes() -> Iterator[Case]:
    """What is adapted, and whose statistics are used."""
    affine = models.FLAT["BatchNorm, affine"]
    for name, solver in SOLVERS.items():
        yield Case(f"BatchNorm, affine / {name} / only head", affine, solver, scope=Only("3.*"))
        yield Case(f"BatchNorm, affine / {name} / except head", affine, solver, scope=Except("3.*"))
        yield Case(f"context / {name}", models.contextual, solver, scope=Context())
    descent = SOLVERS["gradient descent"]
    for policy in ("batch", "support", "running"):
        yield Case(
            f"BatchNorm, pre-trained / gradient descent / norm {policy}",
            models.pretrained,
            descent,
            norm=policy,
        )
    yield Case(
        "BatchNorm2d, affine / gradient descent / norm support",
        models.PICTURES["BatchNorm2d, affine"],
        descent,
        (1, 6, 6),
        norm="support",
    )


def _objectives() -> Iterator[Case]:
    """Penalties, regularisers, mini-batches, tolerances, and no step at all."""
    affine, plain = models.FLAT["BatchNorm, affine"], models.FLAT["perceptron"]
    for name, solver in SOLVERS.items():
        yield Case(
            f"BatchNorm, affine / {name} / proximal", affine, solver, penalty=lambda: Proximal(0.7)
        )
    descent = SOLVERS["gradient descent"]
    learned = Case(
        "BatchNorm, affine / gradient descent / proximal, learned",
        affine,
        descent,
        penalty=lambda: Proximal(0.7, learned=True),
    )
    yield learned
    yield replace(
        learned,
        name="LayerNorm / gradient descent, 60 steps / proximal, learned",
        model=models.FLAT["LayerNorm"],
        solver=lambda: GradientDescent(0.3, 60),
        penalty=lambda: Proximal(2.0, learned=True),
        converged=True,
    )
    yield Case(
        "perceptron / gradient descent, 60 steps / proximal",
        plain,
        lambda: GradientDescent(0.3, 60),
        penalty=lambda: Proximal(2.0),
        converged=True,
    )
    yield Case(
        "perceptron / gradient descent, 60 steps / proximal, only head",
        plain,
        lambda: GradientDescent(0.5, 60),
        scope=Only("2.*"),
        penalty=lambda: Proximal(1.0),
        converged=True,
    )
    yield Case(
        "perceptron / gradient descent / weight decay",
        plain,
        descent,
        regulariser=lambda w: 0.05 * sum_of_squares(w),
    )
    yield Case("perceptron / gradient descent / mini-batches", plain, descent, batch_size=4)
    yield Case("perceptron / Adam / mini-batches", plain, SOLVERS["Adam"], batch_size=4)
    yield Case(
        "dropout / Adam / mini-batches", models.FLAT["dropout"], SOLVERS["Adam"], batch_size=4
    )
    yield Case(
        "perceptron / gradient descent, tolerance",
        plain,
        lambda: GradientDescent(0.4, 6, tolerance=0.25),
    )
    yield Case("perceptron / gradient descent, no step", plain, lambda: GradientDescent(0.4, 0))
    yield Case("perceptron / Adam, default epsilon", plain, lambda: Adam(0.05, 3), step=3e-6)


def _losses() -> Iterator[Case]:
    """Regression, bits, pixels, and losses of the user's own."""
    plain, descent = models.FLAT["perceptron"], SOLVERS["gradient descent"]
    for loss in ("mse", "huber"):
        yield Case(
            f"perceptron / gradient descent / {loss}",
            plain,
            descent,
            labels="values",
            loss=loss,
            forward_mode=loss != "huber",
        )
    yield Case("perceptron / gradient descent / bce", plain, descent, labels="bits", loss="bce")
    yield Case("pixels / gradient descent", models.dense, descent, (1, 4, 4), labels="pixels")
    yield Case(
        "perceptron / gradient descent / label smoothing",
        plain,
        descent,
        loss=nn.CrossEntropyLoss(label_smoothing=0.1),
    )
    yield Case(
        "perceptron / gradient descent / a function of all tasks",
        plain,
        descent,
        labels="values",
        loss=per_task(lambda outputs, y: F.softplus(outputs - y).flatten(1).mean(1), name="hinge"),
    )


def sum_of_squares(weights: Params) -> Tensor:
    return torch.stack([w.square().sum() for w in weights.values()]).sum()

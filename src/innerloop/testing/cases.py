"""The table of compositions: model x solver x rate x scope x penalty x loss. A piece is a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.types import Params
from ..learn import MiniBatches
from ..objective import Bootstrapped, Loss, MultiStep, Proximal, Query, Regulariser, per_task
from ..objective.losses import LossLike
from ..scope import All, Context, Except, Only, PerStep, Prototypes, Scope, Zeroed
from ..solve import (
    Adam,
    GradientDescent,
    PerLayer,
    PerLayerPerStep,
    PerParameter,
    Rate,
    Scalar,
)
from . import models, solvers
from .case import Case
from .compositions import compositions
from .solvers import SOLVERS

NO_FORWARD_MODE = {"GroupNorm", "GroupNorm, maps"}
"""torch 2.13 has no forward-mode rule for the backward pass of these."""


def cases() -> list[Case]:
    """Every composition of the suite, each with its own name."""
    table = [*_layers(), *_rates(), *_updates(), *_scopes(), *_objectives(), *_losses()]
    table += [*_every_step(), *compositions()]
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
            solver = partial(solvers.solver_of, name, rate)
            yield Case(f"BatchNorm, affine / {name}, rate {told}", model, solver)


def _updates() -> Iterator[Case]:
    """Changed gradients, and a learned update."""
    affine, layered = models.FLAT["BatchNorm, affine"], models.FLAT["LayerNorm"]
    for noise in ("binary", "gaussian", "uniform"):
        for name in ("gradient descent", "Adam"):
            yield Case(
                f"BatchNorm, affine / {name}, {noise} gradient dropout",
                affine,
                partial(solvers.dropping, name, noise),
            )
    for name in ("gradient descent", "Adam"):
        yield Case(f"LayerNorm / {name}, sign", layered, partial(solvers.signed, name))
    for name in SOLVERS:
        yield Case(f"LayerNorm / {name}, meta-curvature", layered, partial(solvers.curved, name))
    # The update reads log|g|, or g below e^-10: a short step, so that none crosses from one to the
    # other.
    yield Case("LayerNorm / LSTM update", layered, solvers.lively_lstm, step=1e-6)
    yield Case(
        "perceptron / LSTM update, mini-batches",
        models.FLAT["perceptron"],
        solvers.lively_lstm,
        examples=MiniBatches(4),
    )


def _scopes() -> Iterator[Case]:
    """What is adapted, and whose statistics are used."""
    affine = models.FLAT["BatchNorm, affine"]
    for name, solver in SOLVERS.items():
        yield Case(
            f"BatchNorm, affine / {name} / only head", affine, solver, scope=lambda: Only("3.*")
        )
        yield Case(
            f"BatchNorm, affine / {name} / except head", affine, solver, scope=lambda: Except("3.*")
        )
        yield Case(f"context / {name}", models.contextual, solver, scope=Context)
    for name in ("gradient descent", "Adam"):
        solver = SOLVERS[name]
        yield Case(f"FiLM / {name}", models.modulated, solver, (1, 6, 6), scope=Context)
        yield Case(f"bias transformation / {name}", models.biased, solver)
        starts: dict[str, Callable[[], Scope]] = {
            "zero": lambda: Zeroed(All(), "3.*"),
            "prototypes": lambda: Prototypes(All(), "3"),
        }
        for told, scope in starts.items():
            row = f"BatchNorm, affine / {name} / head from {told}"
            yield Case(row, affine, solver, scope=scope)
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
            f"BatchNorm, affine / {name} / proximal", affine, solver, terms=lambda: [Proximal(0.7)]
        )
    descent = SOLVERS["gradient descent"]
    learned = Case(
        "BatchNorm, affine / gradient descent / proximal, learned",
        affine,
        descent,
        terms=lambda: [Proximal(0.7, learned=True)],
    )
    yield learned
    yield replace(
        learned,
        name="LayerNorm / gradient descent, 120 steps / proximal, learned",
        model=models.FLAT["LayerNorm"],
        solver=lambda: GradientDescent(0.3, 120),
        terms=lambda: [Proximal(2.0, learned=True)],
        converged=True,
    )
    yield Case(
        "perceptron / gradient descent, 60 steps / proximal",
        plain,
        lambda: GradientDescent(0.3, 60),
        terms=lambda: [Proximal(2.0)],
        converged=True,
    )
    yield Case(
        "perceptron / gradient descent, 60 steps / proximal, only head",
        plain,
        lambda: GradientDescent(0.5, 60),
        scope=lambda: Only("2.*"),
        terms=lambda: [Proximal(1.0)],
        converged=True,
    )
    yield Case(
        "perceptron / gradient descent / weight decay",
        plain,
        descent,
        terms=lambda: [Regulariser(lambda w: 0.05 * sum_of_squares(w))],
    )
    yield Case(
        "perceptron / gradient descent / mini-batches", plain, descent, examples=MiniBatches(4)
    )
    yield Case("perceptron / Adam / mini-batches", plain, SOLVERS["Adam"], examples=MiniBatches(4))
    yield Case(
        "dropout / Adam / mini-batches",
        models.FLAT["dropout"],
        SOLVERS["Adam"],
        examples=MiniBatches(4),
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


def _every_step() -> Iterator[Case]:
    """Outer losses at every step or a bootstrapped one, and BatchNorm parameters of every step."""
    flat, picture = models.FLAT["BatchNorm, affine"], models.PICTURES["BatchNorm2d, affine"]
    for name in SOLVERS:
        per_step = partial(solvers.solver_of, name, PerLayerPerStep)
        row = f"BatchNorm, affine / {name}"
        yield Case(f"{row} / multi-step", flat, SOLVERS[name], objective=multi_step)
        yield Case(f"{row} / norm per step", flat, SOLVERS[name], scope=per_step_norm)
        yield Case(f"{row} / MAML++", flat, per_step, scope=per_step_norm, objective=multi_step)
    descent = SOLVERS["gradient descent"]
    for name in SOLVERS:
        yield Case(
            f"BatchNorm, affine / {name} / bootstrapped",
            flat,
            SOLVERS[name],
            constant_target=True,
            objective=Bootstrapped,
        )
    yield Case(
        "BatchNorm2d / gradient descent / MAML++",
        picture,
        descent,
        (1, 6, 6),
        scope=per_step_norm,
        objective=multi_step,
    )
    yield Case(
        "perceptron / gradient descent, tolerance / multi-step",
        models.FLAT["perceptron"],
        lambda: GradientDescent(0.4, 6, tolerance=0.25),
        objective=multi_step,
    )
    yield Case(
        "BatchNorm, affine / Adam / MAML++, mini-batches, norm support",
        flat,
        SOLVERS["Adam"],
        norm="support",
        examples=MiniBatches(4),
        scope=per_step_norm,
        objective=multi_step,
    )


def multi_step(loss: LossLike | Loss) -> MultiStep:
    return MultiStep(Query(loss))


def per_step_norm() -> PerStep:
    return PerStep(All())


def sum_of_squares(weights: Params) -> Tensor:
    return torch.stack([w.square().sum() for w in weights.values()]).sum()

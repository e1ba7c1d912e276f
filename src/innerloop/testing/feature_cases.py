"""The table of learners on features: heads and metric learners x models x normalisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from torch import nn

from ..core.contract import Learner
from ..heads import SVM, Logistic, Ridge
from ..learn import HeadLearner, MatchingLearner, ProtoLearner
from ..learn.head import Targets
from . import models
from .case import FeatureCase

Make = Callable[[nn.Module], Learner]


def ridge(m: nn.Module, *, norm: str | None = None, targets: Targets = "classes") -> HeadLearner:
    return HeadLearner(m, Ridge(0.5), targets=targets, norm=norm, scale=2.0)


def fixed_ridge(m: nn.Module) -> HeadLearner:
    head = Ridge(0.5, learned=False, intercept=False, average=False)
    return HeadLearner(m, head, scale=2.0)


def logistic(m: nn.Module, *, steps: int = 4) -> HeadLearner:
    return HeadLearner(m, Logistic(0.5, steps=steps))


def svm(m: nn.Module, *, norm: str | None = None) -> HeadLearner:
    return HeadLearner(m, SVM(0.4, damping=0.2), norm=norm, scale=1.5)


LEARNERS: dict[str, Make] = {
    "ridge": ridge,
    "ridge, fixed": fixed_ridge,
    "logistic": logistic,
    "logistic, one step": partial(logistic, steps=1),
    "SVM": svm,
    "prototypes": ProtoLearner,
    "matching": MatchingLearner,
}


def feature_cases() -> list[FeatureCase]:
    """Every composition of the suite, each with its own name."""
    table = [*_layers(), *_policies(), *_values(), *_context()]
    assert len({case.name for case in table}) == len(table), "two cases of one name"
    return table


def wide() -> nn.Module:
    """More features than the six support examples: systems are solved in their other form."""
    return nn.Sequential(nn.Linear(2, 9), nn.LayerNorm(9), nn.Tanh())


def narrow() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Tanh())


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Tanh())


def _layers() -> Iterator[FeatureCase]:
    """Every learner on features of every kind of layer."""
    networks: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
        "wide": (wide, (2,)),
        **{k: (models.FLAT[k], (2,)) for k in ("BatchNorm, affine", "dropout", "frozen layer")},
        "BatchNorm2d, affine": (models.PICTURES["BatchNorm2d, affine"], (1, 6, 6)),
        **{k: (models.SEQUENCES[k], (3, 2)) for k in ("transformer block", "LSTM")},
    }
    for told, (model, shape) in networks.items():
        for name, make in LEARNERS.items():
            yield FeatureCase(f"{told} / {name}", model, make, shape)


def _policies() -> Iterator[FeatureCase]:
    """Whose statistics are used."""
    for policy in ("batch", "support", "running"):
        for name, make in {"ridge": ridge, "SVM": svm}.items():
            yield FeatureCase(
                f"BatchNorm, pre-trained / {name} / norm {policy}",
                models.pretrained,
                partial(make, norm=policy),
            )


def _context() -> Iterator[FeatureCase]:
    """Matching in the context of the whole support set, which learns weights of its own."""
    for told, model in {"narrow": narrow, "narrow, BatchNorm": normalised}.items():
        for reads in (1, 3):
            make = partial(MatchingLearner, reads=reads, width=2)
            yield FeatureCase(f"{told} / matching, full context, {reads} reads", model, make)


def _values() -> Iterator[FeatureCase]:
    """Regression."""
    for told, model in {"perceptron": models.FLAT["perceptron"], "wide": wide}.items():
        for loss in ("mse", "huber"):
            make = partial(ridge, targets="values")
            yield FeatureCase(f"{told} / ridge / {loss}", model, make, labels="values", loss=loss)

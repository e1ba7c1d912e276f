"""Runs on sine waves."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..config import METHODS, MLP, Evaluate, RunConfig, Sine, SineGroups
from ..config import TestTasks as Test
from ..train.settings import Settings
from .registry import Family, row

SINE = tuple(
    Family(f"sine-{shot}shot", f"sine waves from {shot} points", shot=shot) for shot in (5, 10)
)
FREQUENCY = tuple(
    Family(f"sine-frequency-{n}shot", f"sine waves of any frequency from {n} points", shot=n)
    for n in (5, 10, 20)
)


@row(SINE, "maml", "fomaml", "bias_transformation")
def maml(family: Family, kind: str) -> RunConfig:
    """Sine waves from few points, trained with 10 support and 10 query points.

    Finn et al. 2017, section 5.1 and code: 25 tasks, Adam 1e-3, 70 000 iterations, one inner step,
    tested after 1, 5 and 10 steps on 600 tasks. The inner rate is 0.001, the default of the code,
    whose command for sine waves sets none; the paper prints 0.01. With 0.01 the network learns to
    stand one large step, and after 5 and more steps one test task in a hundred diverges. Bias
    transformation has no sine row: its numbers are MAML's.
    """
    return RunConfig(
        name=kind,
        data=Sine(shot=10, queries=10),
        test=Test(shot=family.shot, queries=family.shot),
        model=MLP(init="truncated_normal"),
        method=METHODS[kind](lr=0.001, steps=1, loss="mse"),
        train=_budget(70_000),
        evaluate=Evaluate(tasks=600, steps=10),
    )


@row(SINE, "reptile")
def reptile(family: Family, kind: str) -> RunConfig:
    """Nichol et al. 2018, the 1D demo.

    64-64 tanh, 50 points, inner SGD 0.02 on mini-batches of 10, 30 000 iterations, step 0.1
    annealed.
    """
    return replace(
        maml(family, "maml"),
        data=Sine(shot=50, queries=10),
        model=MLP(hidden=(64, 64), activation="tanh"),
        method=METHODS[kind](lr=0.02, steps=5, batch_size=10, optimizer="sgd", loss="mse"),
        train=_budget(30_000, meta_batch=5, optimizer="sgd", lr=0.1, schedule="linear"),
    )


@row(SINE, "imaml", "pretrained")
def imaml(family: Family, kind: str) -> RunConfig:
    """MAML's budget with the rate of its paper: neither has a sine row."""
    return replace(maml(family, "maml"), method=METHODS[kind](lr=0.01, loss="mse"))


@row(SINE, "anil")
def anil(family: Family, kind: str) -> RunConfig:
    """MAML's, but 5 steps at 0.01 and 30 000 iterations: ANIL has no sine row.

    With one step of the head alone the network learns to stand no second.
    """
    method = METHODS[kind](lr=0.01, steps=5, loss="mse")
    return replace(maml(family, "maml"), method=method, train=_budget(30_000))


@row(SINE, "meta_sgd")
def meta_sgd(family: Family, kind: str) -> RunConfig:
    """Li et al. 2017: one step, rates from 0.01 on."""
    return replace(maml(family, "maml"), method=METHODS[kind](lr=0.01, steps=1, loss="mse"))


@row(SINE, "cavia")
def cavia(family: Family, kind: str) -> RunConfig:
    """Zintgraf et al. 2019 and code.

    5 context parameters, rate 1.0, one step, torch's own initial weights, entries of the gradient
    clipped to 10, 50 000 iterations.
    """
    return replace(
        maml(family, "maml"),
        model=MLP(),
        method=METHODS[kind](lr=1.0, steps=1, context=5, loss="mse"),
        train=_budget(50_000, clip_value=10.0),
    )


@row(SINE, "meta_lstm")
def meta_lstm(family: Family, kind: str) -> RunConfig:
    """Ravi & Larochelle 2017 and code for five shots, without a sine row of its own.

    One task per update, gradient norm clipped to 0.25, the weights' initial values torch's own; 5
    steps and 25 000 updates.
    """
    return replace(
        maml(family, "maml"),
        model=MLP(),
        method=METHODS[kind](steps=5, loss="mse"),
        train=_budget(25_000, meta_batch=1, clip_norm=0.25),
    )


@row(SINE, "scratch")
def scratch(family: Family, kind: str) -> RunConfig:
    """No training; 100 steps at 0.01 on the support set."""
    return replace(
        maml(family, "maml"),
        method=METHODS[kind](lr=0.01, loss="mse"),
        train=Settings(iterations=0),
        evaluate=Evaluate(tasks=600, steps=100),
    )


@row(SINE, "alpha_maml")
def alpha_maml(family: Family, kind: str) -> RunConfig:
    """MAML's, with learned rates.

    Behl et al. 2019 have no sine row and their hyper-rates are not confirmed: ours are 1e-4 on the
    normalised product for the outer rate and 1e-4 for the inner one.
    """
    base = maml(family, "maml")
    return replace(
        base,
        method=METHODS[kind](lr=base.method.lr, steps=base.method.steps, loss="mse"),
        train=replace(base.train, outer_hyper=1e-4, normalised_hyper=True, inner_hyper=1e-4),
    )


@row(SINE, "tr_maml")
def tr_maml(family: Family, kind: str) -> RunConfig:
    """Collins et al. 2020 and code: 100 bins of amplitude, five of them large.

    As many support and query points as at test, 25 tasks, Adam 1e-3, inner rate 0.001, 70 000
    iterations, tested after one step on amplitudes of any size. Its weights move by 1e-5 (10-shot:
    2e-5), which is ours times the number of groups over that of tasks: 4.
    """
    base = maml(family, "maml")
    return replace(
        base,
        data=SineGroups(shot=family.shot, queries=family.shot),
        test=Test(),
        train=replace(base.train, robust_lr=(1e-5 if family.shot == 5 else 2e-5) / 4),
        evaluate=Evaluate(tasks=600, steps=1),
    )


@row(FREQUENCY, "maml", "meta_sgd")
def any_frequency(family: Family, kind: str) -> RunConfig:
    """Sine waves whose frequency varies too, trained and tested on few points.

    Li et al. 2017 (Meta-SGD), section 4.1: y = A sin(w x + b), w from U[0.8, 1.2], 10 query points
    in training, one inner step, 60 000 iterations, tested with 100 query points. 4 tasks per
    iteration and Adam 1e-3 are reports of others. The rates of Meta-SGD start at 0.01, which is
    also MAML's rate, and the weights as in MAML's code.
    """
    return RunConfig(
        name=kind,
        data=Sine(shot=family.shot, queries=10, frequency=(0.8, 1.2), phase=(-math.pi, 0.0)),
        test=Test(shot=family.shot, queries=100),
        model=MLP(init="truncated_normal"),
        method=METHODS[kind](lr=0.01, steps=1, loss="mse"),
        train=_budget(60_000, meta_batch=4),
        evaluate=Evaluate(tasks=600, steps=1),
    )


def _budget(iterations: int, **changed: Any) -> Settings:
    """MAML's outer loop with changes."""
    maml_loop: dict[str, Any] = {"meta_batch": 25, "lr": 1e-3}
    rare = {"validate_every": 5000, "checkpoint_every": 5000, "log_every": 500}
    return Settings(iterations=iterations, **{**maml_loop, **rare, **changed})

"""Runs on sine waves."""

from __future__ import annotations

import math
from typing import Any

from ..config import METHODS, MLP, Evaluate, RunConfig, Sine
from ..config import TestTasks as Test
from ..train.settings import Settings

BASELINES = ("imaml", "pretrained", "scratch")
"""Methods whose default number of inner steps stays."""


def sine(shot: int, kind: str) -> RunConfig:
    """Sine waves from `shot` points, trained with 10 support and 10 query points.

    Finn et al. 2017, section 5.1 and code: 25 tasks, Adam 1e-3, 70 000 iterations, one inner step,
    tested after 1, 5 and 10 steps on 600 tasks. The inner rate is 0.001, the default of the code,
    whose command for sine waves sets none; the paper prints 0.01. With 0.01 the network learns to
    stand one large step, and after 5 and more steps one test task in a hundred diverges.

    CAVIA: Zintgraf et al. 2019 and code: 5 context parameters, rate 1.0, one step, torch's own
    initial weights, entries of the gradient clipped to 10, 50 000 iterations.

    Reptile: Nichol et al. 2018, the 1D demo: 64-64 tanh, 50 points, inner SGD 0.02 on mini-batches
    of 10, 30 000 iterations, step 0.1 annealed. Meta-SGD: Li et al. 2017, one step, rates from 0.01
    on. Meta-LSTM: Ravi & Larochelle 2017 and code for five shots: one task per update, gradient
    norm clipped to 0.25, the weights' initial values torch's own. iMAML, ANIL, bias transformation
    and meta-LSTM have no sine row. Their budget is MAML's but for ANIL, which takes 5 steps at 0.01
    (with one step of the head alone the network learns to stand no second) and 30 000 iterations,
    and for meta-LSTM with 5 steps and 25 000 updates.
    """
    ours: dict[str, Any] = {"lr": 0.001, "loss": "mse"}
    if kind in ("meta_sgd", *BASELINES):
        ours["lr"] = 0.01
    if kind not in BASELINES:
        ours["steps"] = 1
    data, model, train = Sine(shot=10, queries=10), MLP(init="truncated_normal"), _budget(70_000)
    if kind == "anil":
        ours |= {"lr": 0.01, "steps": 5}
        train = _budget(30_000)
    if kind == "cavia":
        ours |= {"lr": 1.0, "context": 5}
        model, train = MLP(), _budget(50_000, clip_value=10.0)
    if kind == "meta_lstm":
        ours = {"loss": "mse", "steps": 5}
        model, train = MLP(), _budget(25_000, meta_batch=1, clip_norm=0.25)
    if kind == "reptile":
        ours |= {"lr": 0.02, "steps": 5, "batch_size": 10, "optimizer": "sgd"}
        data, model = Sine(shot=50, queries=10), MLP(hidden=(64, 64), activation="tanh")
        train = _budget(30_000, meta_batch=5, optimizer="sgd", lr=0.1, schedule="linear")
    if kind == "scratch":
        train = Settings(iterations=0)
    return RunConfig(
        name=f"sine-{shot}shot/{kind}",
        data=data,
        test=Test(shot=shot, queries=shot),
        model=model,
        method=METHODS[kind](**ours),
        train=train,
        evaluate=Evaluate(tasks=600, steps=100 if kind == "scratch" else 10),
    )


def sine_frequency(shot: int, kind: str) -> RunConfig:
    """Sine waves whose frequency varies too, trained and tested on `shot` points.

    Li et al. 2017 (Meta-SGD), section 4.1: y = A sin(w x + b), w from U[0.8, 1.2], 10 query points
    in training, one inner step, 60 000 iterations, tested with 100 query points. 4 tasks per
    iteration and Adam 1e-3 are reports of others. The rates of Meta-SGD start at 0.01, which is
    also MAML's rate, and the weights as in MAML's code.
    """
    return RunConfig(
        name=f"sine-frequency-{shot}shot/{kind}",
        data=Sine(shot=shot, queries=10, frequency=(0.8, 1.2), phase=(-math.pi, 0.0)),
        test=Test(shot=shot, queries=100),
        model=MLP(init="truncated_normal"),
        method=METHODS[kind](lr=0.01, steps=1, loss="mse"),
        train=_budget(60_000, meta_batch=4),
        evaluate=Evaluate(tasks=600, steps=1),
    )


def _budget(iterations: int, **changed: Any) -> Settings:
    """MAML's outer loop with changes."""
    maml: dict[str, Any] = {"meta_batch": 25, "lr": 1e-3}
    rare = {"validate_every": 5000, "checkpoint_every": 5000, "log_every": 500}
    return Settings(iterations=iterations, **{**maml, **rare, **changed})

"""Runs on Omniglot that fit into minutes on two CPU cores: ours, no paper's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..config import METHODS, Conv4, Evaluate, Omniglot, RunConfig
from ..config import TestTasks as Test
from ..train.settings import Settings
from .omniglot import HYPER_RATES
from .registry import Family, row


@dataclass(frozen=True)
class Quick:
    """What a method does not share with the others.

    method: its keywords. steps: inner steps at test, where they are not those of training.
    tasks, way, shot, queries: of a training step. train: settings of the outer loop.
    recorded: whether `engine="traced"` can run it.
    """

    method: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    tasks: int | None = None
    way: int | None = None
    shot: int = 1
    queries: int | None = None
    train: dict[str, Any] = field(default_factory=dict)
    recorded: bool = False


# Methods on features and without inner steps: nothing to record, nothing to choose.
_FEATURES = Quick()
_ONE_STEP = {"lr": 0.4, "steps": 1}
_HYPER = {"schedule": "constant", **HYPER_RATES}  # no schedule: hypergradients move the rates
_FIVE = {"keep_best": 5, "validate_every": 100}  # enough validations to choose five from

QUICK: dict[str, Quick] = {
    "maml": Quick(_ONE_STEP, 3, recorded=True),
    "fomaml": Quick(_ONE_STEP, 3, recorded=True),
    "reptile": Quick(
        {"lr": 1e-3, "steps": 5, "batch_size": 10},
        50,
        tasks=5,
        shot=10,
        queries=1,
        train={"optimizer": "sgd", "lr": 1.0, "schedule": "linear"},
    ),
    "imaml": Quick({"lr": 0.4, "steps": 3, "lam": 0.5, "cg_steps": 2, "cg_damping": 24.0}, tasks=8),
    "maml_plus_plus": Quick({"lr": 0.2, "steps": 3}, train=_FIVE, recorded=True),
    "anil": Quick({"lr": 0.4, "steps": 5}, recorded=True),
    "boil": Quick({"lr": 0.5, "steps": 1}, recorded=True),
    "meta_sgd": Quick(_ONE_STEP, recorded=True),
    "deml": Quick(_ONE_STEP, recorded=True),
    "alpha_maml": Quick({"lr": 0.1, "steps": 1}, 3, train=_HYPER, recorded=True),
    "cavia": Quick({"context": 100, "lr": 1.0, "steps": 2}, recorded=True),
    "bias_transformation": Quick({"size": 10, **_ONE_STEP}, 3, recorded=True),
    "dropgrad": Quick({"p": 0.1, **_ONE_STEP}, 3),
    "sign_maml": Quick({"lr": 0.0035, "steps": 5}, recorded=True),
    "meta_curvature": Quick(_ONE_STEP, 3, recorded=True),
    "zeroing": Quick({"lr": 0.4, "steps": 3}, recorded=True),
    "proto_maml": Quick({"lr": 0.1, "steps": 3}),
    "bootstrapped": Quick({"extra": 1, "target_lr": 0.1, **_ONE_STEP}, 3, recorded=True),
    "hf_maml": Quick(_ONE_STEP, 3, shot=2),
    "es_maml": Quick({"sigma": 0.02, "pairs": 16, **_ONE_STEP}, tasks=4),
    "meta_lstm": Quick({"steps": 5}, tasks=2, train={"lr": 1e-3, "clip_norm": 0.25}, recorded=True),
    "r2d2": Quick({"lam": 1.0}),
    "lrd2": Quick({"lam": 1.0}),
    "metaoptnet": _FEATURES,
    "matching": Quick({"temperature": 0.1}),
    "protonet": Quick(tasks=2, way=60),
    "pretrained": Quick({"lr": 0.1}, 20, train={"workers": 1, "threads": 2}),
    "scratch": Quick({"lr": 0.1}, 20, train={"iterations": 0, "workers": 1}),
}

MANY_WAYS: dict[str, Quick] = {
    "maml": Quick({"lr": 0.8, "steps": 3}, recorded=True),
    "fomaml": Quick({"lr": 0.8, "steps": 3}, recorded=True),
    "maml_plus_plus": Quick({"lr": 0.8, "steps": 3}, train=_FIVE, recorded=True),
    "anil": Quick({"lr": 2.0, "steps": 5}, recorded=True),
}
"""Where 20 ways ask for other numbers."""

TASKS = {5: 16, 20: 4}
"""Of a training step, by way: about as many images."""

BORROWED = {"nil": "anil"}
"""Methods that train nothing, by the method whose weights they are tested on."""


FAMILIES = tuple(
    Family(
        f"omniglot-{way}w1s-quick",
        f"Omniglot {way}-way 1-shot, 37 minutes on two cores",
        shot=1,
        way=way,
    )
    for way in (5, 20)
)


@row(FAMILIES, *QUICK)
def quick_omniglot(family: Family, kind: str) -> RunConfig:
    """Omniglot 1-shot in 37 minutes of training on two CPU cores, or what `train.minutes` says.

    All methods meet the same test tasks, with MAML's characters and rotations, on the same
    Conv4-64. Ours: 16 (20-way: 4) training tasks of 5 queries per class, Adam 2e-3 annealed by a
    cosine over the time given, two workers, and inner rates and steps where none is named here.

    Reptile: Nichol et al. 2018, inner loop and outer step of the 5-way command. MAML++: Antoniou et
    al. 2019, the ensemble of five. BOIL: Oh et al. 2021, rate 0.5, one step. CAVIA: Zintgraf et al.
    2019, 100 numbers, two steps at 1.0 (miniImageNet). Bias transformation: 10 numbers (reaching,
    code). DropGrad: p = 0.1 (code). Sign-MAML: 0.0035 and 5 steps (its README). Meta-LSTM: Ravi &
    Larochelle 2017, Adam 1e-3, gradient norm at most 0.25, and the 5 steps with which the code's
    5-shot run meets one shot (its 1-shot run: 12). Alpha MAML: Behl et al. 2019, hyper-rates as in
    `characters`, no schedule. DEML: Zhou et al. 2018, one step of Meta-SGD on the head, the
    discriminator on the training characters. ProtoNet: Snell et al. 2017, 60-way training. HF-MAML
    parts the support set, so it is trained on two shots. iMAML: conjugate gradients meet negative
    curvature at every lambda that lets a task move, so they are damped as in the released code, to
    about 24; the rest is ours. R2-D2 and LR-D2: lambda 1 suits 64 pooled features, the authors' 50
    goes with thousands. Matching: the temperature of 0.1 is ours, the paper has 1. ES-MAML: sigma
    and pairs are ours; its authors do control.
    """
    way = family.way
    quick = {**QUICK, **(MANY_WAYS if way == 20 else {})}[kind]
    shared = Settings(
        iterations=200_000,
        meta_batch=TASKS[way] if quick.tasks is None else quick.tasks,
        lr=2e-3,
        schedule="cosine",
        minutes=37.0,
        workers=2,
        engine="traced" if quick.recorded else "eager",
        log_every=50,
        validate_every=500,
        validate_tasks=100,
        validate_steps=quick.steps,
    )
    return RunConfig(
        name=kind,
        data=Omniglot(
            way=way if quick.way is None else quick.way,
            shot=quick.shot,
            queries=5 if quick.queries is None else quick.queries,
            rotate="augment",
        ),
        test=Test(way=way, shot=1, queries=15),
        model=Conv4(),
        method=METHODS[kind](**quick.method),
        train=replace(shared, **quick.train),
        evaluate=Evaluate(tasks=600, steps=quick.steps),
    )

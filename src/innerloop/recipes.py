"""Runs by name, after the rows of the papers' tables: `recipe("omniglot-5w1s/maml")`.

A recipe is a function that returns a `RunConfig`; every number that is not a default of a config
section has its source in the function that sets it. Inner rates of MAML on images are the published
ones times the number of classes, because the authors sum the support loss over classes and we
average it (see `innerloop.methods.maml`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .config import METHODS, MLP, Conv4, Evaluate, Folder, Glyphs, Omniglot, RunConfig, Sine
from .config import TestTasks as Test
from .config.schema import nearest
from .train.settings import Settings

MESSAGE = "see all of them with: innerloop recipes"


@dataclass(frozen=True)
class Recipe:
    """A named run: `about` in a few words, `paper` the row it is named after."""

    name: str
    about: str
    paper: str
    build: Callable[[], RunConfig]


def recipe(name: str) -> RunConfig:
    """The run of this name.

    Raises:
        ValueError: there is no such recipe; names the nearest one.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; {nearest(name, RECIPES)}; {MESSAGE}")
    return RECIPES[name].build()


def _method(kind: str, **settings: Any) -> Any:
    return METHODS[kind](**settings)


def sine(shot: int, kind: str) -> RunConfig:
    """Sine waves from `shot` points, trained with 10 support and 10 query points.

    Finn et al. 2017, section 5.1 and code: 25 tasks, Adam 1e-3, 70 000 iterations, one inner step
    at rate 0.01, tested after 1, 5 and 10 steps on 600 tasks. Reptile: Nichol et al. 2018, the 1D
    demo: 64-64 tanh, 50 points, inner SGD 0.02 on mini-batches of 10, 30 000 iterations, step 0.1
    annealed. Meta-SGD: Li et al. 2017, one step. iMAML, ANIL and BOIL have no sine row: the inner
    rate and budget are MAML's.
    """
    ours: dict[str, Any] = {"lr": 0.01, "loss": "mse"}
    if kind not in ("imaml", "pretrained", "scratch"):
        ours["steps"] = 1
    data, model = Sine(shot=10, queries=10), MLP(init="truncated_normal")
    train = Settings(
        iterations=70_000, meta_batch=25, lr=1e-3, validate_every=5000, checkpoint_every=5000,
        log_every=500,
    )  # fmt: skip
    if kind == "reptile":
        ours |= {"lr": 0.02, "steps": 5, "batch_size": 10, "optimizer": "sgd"}
        data, model = Sine(shot=50, queries=10), MLP(hidden=(64, 64), activation="tanh")
        train = Settings(
            iterations=30_000, meta_batch=5, optimizer="sgd", lr=0.1, schedule="linear",
            validate_every=5000, checkpoint_every=5000, log_every=500,
        )  # fmt: skip
    if kind == "scratch":
        train = Settings(iterations=0)
    return RunConfig(
        name=f"sine-{shot}shot/{kind}",
        data=data,
        test=Test(shot=shot, queries=shot),
        model=model,
        method=_method(kind, **ours),
        train=train,
        evaluate=Evaluate(tasks=600, steps=100 if kind == "scratch" else 10),
    )


def omniglot(way: int, shot: int, kind: str) -> RunConfig:
    """Omniglot as in the paper that the method comes from.

    MAML, FOMAML (Finn et al. 2017, section 5.2, appendix A.1 and code): inner rate 0.4 (5-way) or
    0.1 (20-way) on the summed loss, 1 or 5 steps, 3 or 5 at test, 32 or 16 tasks, as many queries
    as shots, Adam 1e-3, 60 000 iterations, rotations at training and test, ink = 1. ANIL (Raghu et
    al. 2020) takes MAML's numbers; BOIL (Oh et al. 2021) inner rate 0.5, Meta-SGD (Li et al. 2017)
    rates in [0.005, 0.1], both with one step and 15 queries per class.
    """
    if kind == "reptile":
        return _omniglot_reptile(way, shot)
    if kind == "imaml":
        return _omniglot_imaml(way, shot)
    if kind == "protonet":
        return _omniglot_protonet(way, shot)
    few = way == 5
    ours: dict[str, Any] = {"lr": 0.4 * 5 if few else 0.1 * 20, "steps": 1 if few else 5}
    queries = shot
    if kind == "boil":
        ours, queries = {"lr": 0.5, "steps": 1}, 15
    if kind == "meta_sgd":
        ours, queries = {"lr": 0.05, "steps": 1}, 15
    if kind in ("pretrained", "scratch"):
        ours = {}
    return RunConfig(
        name=f"omniglot-{way}w{shot}s/{kind}",
        data=Omniglot(way=way, shot=shot, queries=queries, rotate="augment"),
        test=Test(queries=shot),
        model=Conv4(init="xavier"),
        method=_method(kind, **ours),
        train=Settings(iterations=0 if kind == "scratch" else 60_000, meta_batch=32 if few else 16),
        evaluate=Evaluate(
            tasks=600, steps={"pretrained": 20, "scratch": 100}.get(kind, 3 if few else 5)
        ),
    )


def _omniglot_reptile(way: int, shot: int) -> RunConfig:
    """Nichol et al. 2018, the commands of the code's README.

    Inner Adam 1e-3 (20-way: 5e-4), 5 (10) steps on mini-batches of 10 (20) from 10 training shots,
    5 tasks, step 1 annealed to 0 in 100 000 (200 000) iterations, 50 inner steps at test; rotated
    characters are classes of their own in training, paper = 1, 1-bit images. The authors' test
    mini-batch is 5 (10); ours stays as in training.
    """
    few = way == 5
    return RunConfig(
        name=f"omniglot-{way}w{shot}s/reptile",
        data=Omniglot(
            way=way, shot=10, queries=1, rotate="classes-train", invert=False, resize="nearest"
        ),
        test=Test(shot=shot),
        model=Conv4(features="flatten"),
        method=_method(
            "reptile",
            lr=1e-3 if few else 5e-4,
            steps=5 if few else 10,
            batch_size=10 if few else 20,
        ),
        train=Settings(
            iterations=100_000 if few else 200_000,
            meta_batch=5,
            optimizer="sgd",
            lr=1.0,
            schedule="linear",
            validate_every=2000,
            validate_steps=50,
        ),
        evaluate=Evaluate(tasks=600, steps=50),
    )


def _omniglot_imaml(way: int, shot: int) -> RunConfig:
    """Rajeswaran et al. 2019: 16 (20-way: 25) inner steps at 0.1, lambda 2, 5 CG steps.

    Code: 32 tasks, Adam 1e-3 with eps 1e-3, 20 000 iterations, flattened features, rotations at
    training and test, paper = 1.
    """
    return RunConfig(
        name=f"omniglot-{way}w{shot}s/imaml",
        data=Omniglot(way=way, shot=shot, queries=shot, rotate="augment", invert=False),
        model=Conv4(features="flatten"),
        method=_method("imaml", lr=0.1, steps=16 if way == 5 else 25, lam=2.0, cg_steps=5),
        train=Settings(iterations=20_000, meta_batch=32, eps=1e-3),
        evaluate=Evaluate(tasks=600, steps=16 if way == 5 else 25),
    )


def _omniglot_protonet(way: int, shot: int) -> RunConfig:
    """Snell et al. 2017: trained 60-way with 5 queries, one task per step, Vinyals' split.

    Rotated characters are classes of their own; max-pooled Conv4-64. The authors halve Adam's 1e-3
    every 2000 steps until validation stops improving; here it is annealed by a cosine.
    """
    return RunConfig(
        name=f"omniglot-{way}w{shot}s/protonet",
        data=Omniglot(
            way=60, shot=shot, queries=5, split="vinyals", rotate="classes", invert=True
        ),
        test=Test(way=way),
        model=Conv4(pool="max", features="flatten"),
        method=_method("protonet"),
        train=Settings(iterations=20_000, meta_batch=1, schedule="cosine"),
        evaluate=Evaluate(tasks=600),
    )


def folder(way: int, shot: int, kind: str) -> RunConfig:
    """A folder of images, `--data.root DIR`, with MAML's numbers for miniImageNet.

    Finn et al. 2017, appendix A.1 and code: inner rate 0.01 on the summed loss, 5 steps, 10 at
    test, 4 tasks (5-shot: 2), 15 queries, Adam 1e-3, entries of the meta-gradient clipped to 10,
    60 000 iterations, Conv4-32 with max-pools on 84 x 84. BOIL: Oh et al. 2021, rate 0.5, one step.
    Reptile: Nichol et al. 2018, Adam 1e-3, 8 steps of 10 from 15 shots, 5 tasks, 100 000
    iterations. iMAML: lambda 0.5, 10 steps at 0.1.
    """
    ours: dict[str, Any] = {"lr": 0.01 * way, "steps": 5}
    data = {"way": way, "shot": shot, "queries": 15}
    test, steps = Test(), 10
    train = Settings(iterations=60_000, meta_batch=4 if shot == 1 else 2, clip_value=10.0)
    if kind == "reptile":
        ours = {"lr": 1e-3, "steps": 8, "batch_size": 10}
        data, test, steps = {**data, "shot": 15}, Test(shot=shot), 50
        train = Settings(
            iterations=100_000, meta_batch=5, optimizer="sgd", lr=1.0, schedule="linear"
        )
    if kind == "imaml":
        ours = {"lr": 0.1, "steps": 10, "lam": 0.5}
    if kind == "boil":
        ours, steps = {"lr": 0.5, "steps": 1}, 1
    if kind == "meta_sgd":
        ours, steps = {"lr": 0.05, "steps": 1}, 1
    if kind in ("protonet", "pretrained", "scratch"):
        ours, steps = {}, {"protonet": 0, "pretrained": 20, "scratch": 100}[kind]
    if kind == "scratch":
        train = Settings(iterations=0)
    return RunConfig(
        name=f"folder-{way}w{shot}s/{kind}",
        data=Folder(root="", **data),
        test=test,
        model=Conv4(filters=32, pool="max", features="flatten", init="xavier"),
        method=_method(kind, **ours),
        train=train,
        evaluate=Evaluate(tasks=600, steps=steps),
    )

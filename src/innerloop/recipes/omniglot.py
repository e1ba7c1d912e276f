"""Runs on Omniglot: the papers' rows, and a quick family of our own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..config import METHODS, Conv4, Evaluate, Omniglot, RunConfig
from ..config import TestTasks as Test
from ..train.settings import Settings


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
        method=METHODS[kind](**ours),
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
        method=METHODS["reptile"](
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
        method=METHODS["imaml"](lr=0.1, steps=16 if way == 5 else 25, lam=2.0, cg_steps=5),
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
        data=Omniglot(way=60, shot=shot, queries=5, split="vinyals", rotate="classes", invert=True),
        test=Test(way=way),
        model=Conv4(pool="max", features="flatten"),
        method=METHODS["protonet"](),
        train=Settings(iterations=20_000, meta_batch=1, schedule="cosine"),
        evaluate=Evaluate(tasks=600),
    )


def quick_omniglot(kind: str) -> RunConfig:
    """Omniglot 5-way 1-shot in 37 minutes of training on two CPU cores: ours, no paper's.

    All methods meet the same test tasks, with 15 queries per class, MAML's characters and
    rotations. Two workers, 16 training tasks of 5 queries per class, rate 0.4 on the mean loss,
    Adam 2e-3 annealed by a cosine over the time given, 3 steps at test; Reptile keeps its paper's
    inner loop and outer step, iMAML its inner loop, ProtoNet its 60-way training.
    """
    full = omniglot(5, 1, kind)
    ours: dict[str, dict[str, Any]] = {
        "maml": {"lr": 0.4, "steps": 1},
        "fomaml": {"lr": 0.4, "steps": 1},
        "anil": {"lr": 0.4, "steps": 5},
    }
    way, shot, queries, tasks = 5, 1, 5, 16
    if kind == "reptile":
        shot, queries, tasks = 10, 1, 5
    if kind == "protonet":
        way, tasks = 60, 2
    return replace(
        full,
        name=f"omniglot-5w1s-quick/{kind}",
        data=Omniglot(way=way, shot=shot, queries=queries, rotate="augment"),
        test=Test(way=5, shot=1, queries=15),
        model=Conv4(),
        method=METHODS[kind](**ours[kind]) if kind in ours else full.method,
        train=replace(
            full.train,
            iterations=200_000,
            meta_batch=tasks,
            schedule="linear" if kind == "reptile" else "cosine",
            minutes=37.0,
            workers=2,
            lr=full.train.lr if kind == "reptile" else 2e-3,
            log_every=100,
            validate_every=1000,
            validate_tasks=200,
            validate_steps=full.evaluate.steps,
        ),
    )

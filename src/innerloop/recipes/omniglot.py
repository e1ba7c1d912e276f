"""Runs on Omniglot: the rows of the papers' tables."""

from __future__ import annotations

from typing import Any

from ..config import METHODS, Conv4, Evaluate, Omniglot, R2D2Net, RunConfig
from ..config import TestTasks as Test
from ..train.settings import Settings


def omniglot(way: int, shot: int, kind: str) -> RunConfig:
    """Omniglot as in the paper that the method comes from.

    MAML, FOMAML (Finn et al. 2017, section 5.2, appendix A.1 and code): inner rate 0.4 (5-way) or
    0.1 (20-way) on the summed loss, 1 or 5 steps, 3 or 5 at test, 32 or 16 tasks, as many queries
    as shots, Adam 1e-3, 60 000 iterations, rotations at training and test, ink = 1, a head that
    starts from N(0, 1). ANIL (Raghu et al. 2020) takes MAML's numbers; BOIL (Oh et al. 2021) inner
    rate 0.5, Meta-SGD (Li et al. 2017) rates in [0.005, 0.1], both with one step, at test as well,
    and 15 queries per class.
    """
    if kind == "reptile":
        return _omniglot_reptile(way, shot)
    if kind == "imaml":
        return _omniglot_imaml(way, shot)
    if kind == "protonet":
        return _omniglot_protonet(way, shot)
    if kind == "maml_plus_plus":
        return _omniglot_plus_plus(way, shot)
    if kind == "r2d2":
        return _omniglot_r2d2(way, shot)
    if kind == "metaoptnet":
        return _omniglot_metaoptnet(way, shot)
    few = way == 5
    ours: dict[str, Any] = {"lr": 0.4 * 5 if few else 0.1 * 20, "steps": 1 if few else 5}
    queries = shot
    if kind == "boil":
        ours, queries = {"lr": 0.5, "steps": 1}, 15
    if kind == "meta_sgd":
        ours, queries = {"lr": 0.05, "steps": 1}, 15
    if kind in ("pretrained", "scratch"):
        ours = {}
    steps = {"boil": 1, "meta_sgd": 1, "pretrained": 20, "scratch": 100}
    return RunConfig(
        name=f"omniglot-{way}w{shot}s/{kind}",
        data=Omniglot(way=way, shot=shot, queries=queries, rotate="augment"),
        test=Test(queries=shot),
        model=Conv4(init="maml" if kind in ("maml", "fomaml", "anil") else "xavier"),
        method=METHODS[kind](**ours),
        train=Settings(iterations=0 if kind == "scratch" else 60_000, meta_batch=32 if few else 16),
        evaluate=Evaluate(tasks=600, steps=steps.get(kind, 3 if few else 5)),
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

    Code: 32 tasks, Adam 1e-3, 20 000 iterations, flattened features, its own initialisation,
    rotations at training and test, paper = 1; its matrix of conjugate gradients is that of lambda +
    22. Its meta-gradient is (lambda + 10) / lambda = 6 times as long as this one, which only Adam's
    eps of 1e-3 sees.
    """
    return RunConfig(
        name=f"omniglot-{way}w{shot}s/imaml",
        data=Omniglot(way=way, shot=shot, queries=shot, rotate="augment", invert=False),
        model=Conv4(features="flatten", init="imaml"),
        method=METHODS["imaml"](
            lr=0.1, steps=16 if way == 5 else 25, lam=2.0, cg_steps=5, cg_damping=22.0
        ),
        train=Settings(iterations=20_000, meta_batch=32, eps=1e-3 / 6),
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


def _omniglot_plus_plus(way: int, shot: int) -> RunConfig:
    """Antoniou et al. 2019, the configurations and defaults of the code.

    5 steps from rate 0.1 on, 8 tasks, 1 query per class, 100 epochs of 500 iterations, multi-step
    losses for the first 10 of them, second order throughout, Adam 1e-3 annealed by a cosine to
    1e-5, max-pooled Conv4-64 with LeakyReLU 0.01, rotations in training only, paper = 1, 600 test
    tasks by the ensemble of the five best epochs. The authors split off 3.1 % of the characters
    for validation and 26.1 % for test; here it is MAML's split, 6.2 % and 26.1 %.
    """
    return RunConfig(
        name=f"omniglot-{way}w{shot}s/maml_plus_plus",
        data=Omniglot(way=way, shot=shot, queries=1, rotate="augment-train", invert=False),
        model=Conv4(pool="max", slope=0.01, features="flatten", init="xavier"),
        method=METHODS["maml_plus_plus"](lr=0.1, steps=5, multi_step_until=0.1),
        train=Settings(
            iterations=50_000, meta_batch=8, schedule="cosine", lr_end=1e-5, validate_every=500,
            validate_tasks=600, keep_best=5,
        ),
        evaluate=Evaluate(tasks=600, steps=5),
    )  # fmt: skip


def _omniglot_r2d2(way: int, shot: int) -> RunConfig:
    """Bertinetto et al. 2019 and code: trained 60-way on 600 images a task, lambda 50, scale 10.

    Network 96-192-384-512, Adam from 5e-3. The authors draw 1 to 9 shots anew for each task, halve
    the rate every 2000 tasks, stop when validation does, and normalise by running averages at test;
    here the shots are the test's, the rate is annealed by a cosine over 20 000 tasks, and batch
    statistics are transductive. Split and rotations are those of Snell et al. 2017: the code's are
    not known, and neither is its dropout on Omniglot, so there is none.
    """
    return RunConfig(
        name=f"omniglot-{way}w{shot}s/r2d2",
        data=Omniglot(
            way=60, shot=shot, queries=10 - shot, split="vinyals", rotate="classes"
        ),
        test=Test(way=way, queries=15),
        model=R2D2Net(drop=0.0),
        method=METHODS["r2d2"](lam=50.0, scale=10.0),
        train=Settings(iterations=20_000, meta_batch=1, lr=5e-3, schedule="cosine"),
        evaluate=Evaluate(tasks=600),
    )  # fmt: skip


def _omniglot_metaoptnet(way: int, shot: int) -> RunConfig:
    """MetaOptNet's SVM on Omniglot, where its paper reports nothing: ours.

    C = 0.1, 8 tasks of as many classes as at test, 6 queries in training and 15 at test (Lee et al.
    2019 and code); max-pooled Conv4-64, rotated characters as classes of their own, Adam 1e-3
    annealed by a cosine and 20 000 iterations are those of the prototypes' row.
    """
    return RunConfig(
        name=f"omniglot-{way}w{shot}s/metaoptnet",
        data=Omniglot(way=way, shot=shot, queries=6, split="vinyals", rotate="classes"),
        test=Test(queries=15),
        model=Conv4(pool="max", features="flatten"),
        method=METHODS["metaoptnet"](head="svm", c=0.1),
        train=Settings(iterations=20_000, meta_batch=8, schedule="cosine"),
        evaluate=Evaluate(tasks=600),
    )

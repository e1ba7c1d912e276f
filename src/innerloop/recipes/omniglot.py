"""Runs on Omniglot: the rows of the papers' tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..config import METHODS, Conv4, Evaluate, Omniglot, R2D2Net, RunConfig
from ..config import TestTasks as Test
from ..train.settings import Settings
from .registry import Family, row

OMNIGLOT = tuple(
    Family(f"omniglot-{way}w{n}s", f"Omniglot, {way}-way {n}-shot", shot=n, way=way)
    for way, n in ((5, 1), (5, 5), (20, 1), (20, 5))
)
HYPER_RATES: dict[str, Any] = {"outer_hyper": 1e-5, "normalised_hyper": True, "inner_hyper": 1e-2}
"""Of Alpha MAML on Omniglot."""


@row(OMNIGLOT, "maml", "fomaml", "anil")
def maml(family: Family, kind: str) -> RunConfig:
    """Finn et al. 2017, section 5.2, appendix A.1 and code; ANIL (Raghu et al. 2020) takes these.

    Inner rate 0.4 (5-way) or 0.1 (20-way) on the summed loss, 1 or 5 steps, 3 or 5 at test, 32 or
    16 tasks, as many queries as shots, Adam 1e-3, 60 000 iterations, rotations at training and
    test, ink = 1, a head that starts from N(0, 1).
    """
    few = family.way == 5
    return RunConfig(
        name=kind,
        data=Omniglot(way=family.way, shot=family.shot, queries=family.shot, rotate="augment"),
        test=Test(queries=family.shot),
        model=Conv4(init="maml"),
        method=METHODS[kind](lr=0.4 * 5 if few else 0.1 * 20, steps=1 if few else 5),
        train=Settings(iterations=60_000, meta_batch=32 if few else 16),
        evaluate=Evaluate(tasks=600, steps=3 if few else 5),
    )


@row(OMNIGLOT, "boil")
def boil(family: Family, kind: str) -> RunConfig:
    """MAML's, with the rate 0.5 of Oh et al. 2021, one step and 15 queries per class."""
    return _one_step(family, METHODS[kind](lr=0.5, steps=1))


@row(OMNIGLOT, "meta_sgd")
def meta_sgd(family: Family, kind: str) -> RunConfig:
    """MAML's, with rates in [0.005, 0.1] (Li et al. 2017), one step and 15 queries per class."""
    return _one_step(family, METHODS[kind](lr=0.05, steps=1))


@row(OMNIGLOT, "pretrained")
def pretrained(family: Family, kind: str) -> RunConfig:
    """MAML's budget; fine-tuned for 20 steps."""
    return _baseline(family, METHODS[kind](), 20)


@row(OMNIGLOT, "scratch")
def scratch(family: Family, kind: str) -> RunConfig:
    """No training; 100 steps on the support set."""
    base = _baseline(family, METHODS[kind](), 100)
    return replace(base, train=replace(base.train, iterations=0))


@row(OMNIGLOT, "reptile")
def reptile(family: Family, kind: str) -> RunConfig:
    """Nichol et al. 2018, the commands of the code's README.

    Inner Adam 1e-3 (20-way: 5e-4), 5 (10) steps on mini-batches of 10 (20) from 10 training shots,
    5 tasks, step 1 annealed to 0 in 100 000 (200 000) iterations, 50 inner steps at test; rotated
    characters are classes of their own in training, paper = 1, 1-bit images. The authors' test
    mini-batch is 5 (10); ours stays as in training.
    """
    way, shot = family.way, family.shot
    few = way == 5
    return RunConfig(
        name=kind,
        data=Omniglot(
            way=way, shot=10, queries=1, rotate="classes-train", invert=False, resize="nearest"
        ),
        test=Test(shot=shot),
        model=Conv4(features="flatten"),
        method=METHODS[kind](
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


@row(OMNIGLOT, "imaml")
def imaml(family: Family, kind: str) -> RunConfig:
    """Rajeswaran et al. 2019: 16 (20-way: 25) inner steps at 0.1, lambda 2, 5 CG steps.

    Code: 32 tasks, Adam 1e-3, 20 000 iterations, flattened features, its own initialisation,
    rotations at training and test, paper = 1; its matrix of conjugate gradients is that of lambda +
    22. Its meta-gradient is (lambda + 10) / lambda = 6 times as long as this one, which only Adam's
    eps of 1e-3 sees.
    """
    way, shot = family.way, family.shot
    return RunConfig(
        name=kind,
        data=Omniglot(way=way, shot=shot, queries=shot, rotate="augment", invert=False),
        model=Conv4(features="flatten", init="imaml"),
        method=METHODS[kind](
            lr=0.1, steps=16 if way == 5 else 25, lam=2.0, cg_steps=5, cg_damping=22.0
        ),
        train=Settings(iterations=20_000, meta_batch=32, eps=1e-3 / 6),
        evaluate=Evaluate(tasks=600, steps=16 if way == 5 else 25),
    )


@row(OMNIGLOT, "protonet")
def protonet(family: Family, kind: str) -> RunConfig:
    """Snell et al. 2017: trained 60-way with 5 queries, one task per step, Vinyals' split.

    Rotated characters are classes of their own; max-pooled Conv4-64. The authors halve Adam's 1e-3
    every 2000 steps until validation stops improving; here it is annealed by a cosine.
    """
    way, shot = family.way, family.shot
    return RunConfig(
        name=kind,
        data=Omniglot(way=60, shot=shot, queries=5, split="vinyals", rotate="classes", invert=True),
        test=Test(way=way),
        model=Conv4(pool="max", features="flatten"),
        method=METHODS[kind](),
        train=Settings(iterations=20_000, meta_batch=1, schedule="cosine"),
        evaluate=Evaluate(tasks=600),
    )


@row(OMNIGLOT, "maml_plus_plus")
def maml_plus_plus(family: Family, kind: str) -> RunConfig:
    """Antoniou et al. 2019, the configurations and defaults of the code.

    5 steps from rate 0.1 on, 8 tasks, 1 query per class, 100 epochs of 500 iterations, multi-step
    losses for the first 10 of them, second order throughout, Adam 1e-3 annealed by a cosine to
    1e-5, max-pooled Conv4-64 with LeakyReLU 0.01, rotations in training only, paper = 1, 600 test
    tasks by the ensemble of the five best epochs. The authors split off 3.1 % of the characters
    for validation and 26.1 % for test; here it is MAML's split, 6.2 % and 26.1 %.
    """
    way, shot = family.way, family.shot
    return RunConfig(
        name=kind,
        data=Omniglot(way=way, shot=shot, queries=1, rotate="augment-train", invert=False),
        model=Conv4(pool="max", slope=0.01, features="flatten", init="xavier"),
        method=METHODS[kind](lr=0.1, steps=5, multi_step_until=0.1),
        train=Settings(
            iterations=50_000, meta_batch=8, schedule="cosine", lr_end=1e-5, validate_every=500,
            validate_tasks=600, keep_best=5,
        ),
        evaluate=Evaluate(tasks=600, steps=5),
    )  # fmt: skip


@row(OMNIGLOT, "r2d2")
def r2d2(family: Family, kind: str) -> RunConfig:
    """Bertinetto et al. 2019 and code: trained 60-way on 600 images a task, lambda 50, scale 10.

    Network 96-192-384-512, Adam from 5e-3. The authors draw 1 to 9 shots anew for each task, halve
    the rate every 2000 tasks, stop when validation does, and normalise by running averages at test;
    here the shots are the test's, the rate is annealed by a cosine over 20 000 tasks, and batch
    statistics are transductive. Split and rotations are those of Snell et al. 2017: the code's are
    not known, and neither is its dropout on Omniglot, so there is none.
    """
    way, shot = family.way, family.shot
    return RunConfig(
        name=kind,
        data=Omniglot(
            way=60, shot=shot, queries=10 - shot, split="vinyals", rotate="classes"
        ),
        test=Test(way=way, queries=15),
        model=R2D2Net(drop=0.0),
        method=METHODS[kind](lam=50.0, scale=10.0),
        train=Settings(iterations=20_000, meta_batch=1, lr=5e-3, schedule="cosine"),
        evaluate=Evaluate(tasks=600),
    )  # fmt: skip


@row(OMNIGLOT, "metaoptnet")
def metaoptnet(family: Family, kind: str) -> RunConfig:
    """MetaOptNet's SVM on Omniglot, where its paper reports nothing: ours.

    C = 0.1, 8 tasks of as many classes as at test, 6 queries in training and 15 at test (Lee et al.
    2019 and code); max-pooled Conv4-64, rotated characters as classes of their own, Adam 1e-3
    annealed by a cosine and 20 000 iterations are those of the prototypes' row.
    """
    way, shot = family.way, family.shot
    return RunConfig(
        name=kind,
        data=Omniglot(way=way, shot=shot, queries=6, split="vinyals", rotate="classes"),
        test=Test(queries=15),
        model=Conv4(pool="max", features="flatten"),
        method=METHODS[kind](head="svm", c=0.1),
        train=Settings(iterations=20_000, meta_batch=8, schedule="cosine"),
        evaluate=Evaluate(tasks=600),
    )


@row(OMNIGLOT, "alpha_maml")
def alpha_maml(family: Family, kind: str) -> RunConfig:
    """Behl et al. 2019: MAML's settings, and rates that are learned.

    Its hyper-rates are not confirmed, ours are 1e-5 on the normalised product for the outer rate
    and 1e-2 for the inner one.
    """
    base = maml(family, "maml")
    return replace(
        base,
        method=METHODS[kind](lr=base.method.lr, steps=base.method.steps),
        train=replace(base.train, **HYPER_RATES),
    )


@row(OMNIGLOT, "tr_maml")
def tr_maml(family: Family, kind: str) -> RunConfig:
    """Collins et al. 2020 and code: tasks within one of 25 background alphabets.

    Tested on the 20 evaluation alphabets; one step at 0.1, 8 tasks with 10 queries per class, Adam
    1e-3 annealed by a cosine, 60 000 iterations, max-pooled Conv4-64; its weights move by 2e-5,
    ours times 25 / 8. The authors choose their 25 and 20 alphabets otherwise.
    """
    return RunConfig(
        name=kind,
        data=Omniglot(
            way=family.way, shot=family.shot, queries=10, split="background",
            within_alphabet=True, invert=False,
        ),
        test=Test(queries=10),
        model=Conv4(pool="max", features="flatten"),
        method=METHODS["maml"](lr=0.1, steps=1),
        train=Settings(iterations=60_000, meta_batch=8, schedule="cosine", robust_lr=2e-5 * 8 / 25),
        evaluate=Evaluate(tasks=600, steps=1),
    )  # fmt: skip


@row(OMNIGLOT, "deml")
def deml(family: Family, kind: str) -> RunConfig:
    """Zhou et al. 2018 have no Omniglot row: ours.

    Meta-SGD's budget, the discriminator on the training characters, lambda 1.
    """
    base = meta_sgd(family, "meta_sgd")
    return replace(base, method=METHODS[kind](lr=base.method.lr))


def _xavier(family: Family) -> RunConfig:
    """MAML's run on the network that starts as most methods' do."""
    return replace(maml(family, "maml"), model=Conv4(init="xavier"))


def _one_step(family: Family, method: object) -> RunConfig:
    """One inner step in training and at test, from 15 queries per class in training."""
    base = _xavier(family)
    return replace(
        base,
        data=replace(base.data, queries=15),
        method=method,
        evaluate=Evaluate(tasks=600, steps=1),
    )


def _baseline(family: Family, method: object, steps: int) -> RunConfig:
    return replace(_xavier(family), method=method, evaluate=Evaluate(tasks=600, steps=steps))

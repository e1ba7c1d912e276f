"""Runs on a folder of images and on published data sets of photographs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..config import METHODS, Conv4, Cub, Evaluate, Folder, Published, RunConfig
from ..config import TestTasks as Test
from ..data.readers import DATASETS
from ..train.settings import Settings
from .registry import Family, row

PUBLISHED = {name: dataset.facts.title for name, dataset in DATASETS.items()}
FOLDER = tuple(
    Family(f"folder-5w{n}s", f"a folder of images, 5-way {n}-shot", shot=n, way=5) for n in (1, 5)
)
PHOTOGRAPHS = tuple(
    Family(f"{name}-5w{n}s", f"{title}, 5-way {n}-shot", shot=n, way=5, dataset=name)
    for name, title in PUBLISHED.items()
    for n in (1, 5)
)
ALL = (*FOLDER, *PHOTOGRAPHS)


@row(ALL, "maml", "fomaml", "anil")
def maml(family: Family, kind: str) -> RunConfig:
    """MAML's numbers for miniImageNet; a folder is `--data.root DIR`.

    Finn et al. 2017, appendix A.1 and code: inner rate 0.01 on the summed loss, 5 steps, 10 at
    test, 4 tasks (5-shot: 2), 15 queries, Adam 1e-3, entries of the meta-gradient clipped to 10,
    60 000 iterations, Conv4-32 with max-pools on 84 x 84.
    """
    few = family.shot == 1
    return RunConfig(
        name=kind,
        data=_source(family),
        model=Conv4(filters=32, pool="max", features="flatten", init="xavier"),
        method=METHODS[kind](lr=0.01 * family.way, steps=5),
        train=Settings(iterations=60_000, meta_batch=4 if few else 2, clip_value=10.0),
        evaluate=Evaluate(tasks=600, steps=10),
    )


@row(ALL, "reptile")
def reptile(family: Family, kind: str) -> RunConfig:
    """Nichol et al. 2018.

    Adam 1e-3, 8 steps of 10 from 15 shots, 5 tasks, 100 000 iterations, max-pools that keep the
    last row and column.
    """
    base = maml(family, "maml")
    return replace(
        base,
        data=_source(family, shot=15),
        test=Test(shot=family.shot),
        model=replace(base.model, pool="max-same"),
        method=METHODS[kind](lr=1e-3, steps=8, batch_size=10),
        train=Settings(
            iterations=100_000, meta_batch=5, optimizer="sgd", lr=1.0, schedule="linear"
        ),
        evaluate=Evaluate(tasks=600, steps=50),
    )


@row(ALL, "imaml")
def imaml(family: Family, kind: str) -> RunConfig:
    """MAML's, with lambda 0.5 and 10 steps at 0.1, damped as iMAML's code for Omniglot does."""
    method = METHODS[kind](lr=0.1, steps=10, lam=0.5, cg_damping=20.5)
    return replace(maml(family, "maml"), method=method)


@row(ALL, "boil")
def boil(family: Family, kind: str) -> RunConfig:
    """Oh et al. 2021 and code.

    Rate 0.5, one step, 4 tasks, nothing clipped, 30 000 iterations, 64 filters.
    """
    return replace(
        maml(family, "maml"),
        model=Conv4(pool="max", features="flatten"),
        method=METHODS[kind](lr=0.5, steps=1),
        train=Settings(iterations=30_000, meta_batch=4),
        evaluate=Evaluate(tasks=600, steps=1),
    )


@row(ALL, "meta_sgd")
def meta_sgd(family: Family, kind: str) -> RunConfig:
    """Li et al. 2017: MAML's budget, one step from 0.05 on, at test as well."""
    return _with(family, METHODS[kind](lr=0.05, steps=1), 1)


@row(FOLDER, "protonet")
def protonet(family: Family, kind: str) -> RunConfig:
    """MAML's network and budget, which suit a small folder."""
    return _with(family, METHODS[kind](), 0)


@row(PHOTOGRAPHS, "protonet")
def protonet_on_many_classes(family: Family, kind: str) -> RunConfig:
    """Snell et al. 2017.

    Conv4-64, one task per step, trained 30-way for 1 shot and 20-way for 5; the authors halve
    Adam's 1e-3 every 2000 steps, here it is annealed by a cosine.
    """
    return replace(
        protonet(family, kind),
        data=_source(family, way=30 if family.shot == 1 else 20),
        test=Test(way=family.way),
        model=Conv4(pool="max", features="flatten"),
        train=Settings(iterations=20_000, meta_batch=1, schedule="cosine"),
    )


@row(ALL, "pretrained")
def pretrained(family: Family, kind: str) -> RunConfig:
    """MAML's budget; fine-tuned for 20 steps."""
    return _with(family, METHODS[kind](), 20)


@row(ALL, "scratch")
def scratch(family: Family, kind: str) -> RunConfig:
    """No training; 100 steps on the support set."""
    return replace(_with(family, METHODS[kind](), 100), train=Settings(iterations=0))


@row(ALL, "deml")
def deml(family: Family, kind: str) -> RunConfig:
    """Meta-SGD's network and budget, and a discriminator.

    Zhou et al. 2018 teach a ResNet-50 by 200 external classes of ImageNet; rates, lambda and batch
    sizes are not known. Ours: the discriminator on the training classes (external ones:
    --auxiliary.root DIR), lambda 1, and a head that adapts in one step from a rate of 0.1 on
    glyphs, or 0.01 here, where it has 800 inputs.
    """
    return replace(meta_sgd(family, "meta_sgd"), method=METHODS[kind](lr=0.01))


def _source(family: Family, *, way: int | None = None, shot: int | None = None) -> Any:
    """The training tasks of a family, with 15 queries; way and shot as at test unless given."""
    sizes = {
        "way": family.way if way is None else way,
        "shot": family.shot if shot is None else shot,
        "queries": 15,
    }
    if not family.dataset:
        return Folder(root="", **sizes)
    if family.dataset == "cub":
        return Cub(**sizes)
    return Published(dataset=family.dataset, **sizes)


def _with(family: Family, method: object, steps: int) -> RunConfig:
    """MAML's run with another method, tested after so many steps."""
    base = maml(family, "maml")
    return replace(base, method=method, evaluate=Evaluate(tasks=600, steps=steps))

"""Runs on glyphs, which need no data set, sized for three minutes on two CPU cores: ours."""

from __future__ import annotations

from dataclasses import replace

from ..config import METHODS, Conv4, Evaluate, Glyphs, RunConfig
from ..config import TestTasks as Test
from ..train.settings import Settings
from .registry import Family, row

GLYPHS = (Family("glyphs-5w1s", "characters of unseen scripts, 2.5 minutes", shot=1, way=5),)


@row(GLYPHS, "maml", "fomaml")
def maml(family: Family, kind: str) -> RunConfig:
    """A small Conv4 with 32 filters; rates as for Omniglot, annealed by a cosine over the time."""
    return RunConfig(
        name=kind,
        data=Glyphs(way=5, shot=1, queries=5),
        test=Test(queries=15),
        model=Conv4(filters=32),
        method=METHODS[kind](lr=0.4, steps=1),
        train=Settings(
            iterations=20_000, meta_batch=16, schedule="cosine", minutes=2.5, validate_every=500,
            log_every=20,
        ),
        evaluate=Evaluate(tasks=600, steps=5),
    )  # fmt: skip


@row(GLYPHS, "reptile")
def reptile(family: Family, kind: str) -> RunConfig:
    """Five shots in training, one at test, 50 steps there."""
    base = maml(family, "maml")
    return replace(
        base,
        data=Glyphs(way=5, shot=5, queries=1),
        test=Test(shot=1, queries=15),
        method=METHODS[kind](lr=1e-3, steps=5),
        train=replace(base.train, meta_batch=5, optimizer="sgd", lr=1.0, schedule="linear"),
        evaluate=Evaluate(tasks=600, steps=50),
    )


@row(GLYPHS, "imaml")
def imaml(family: Family, kind: str) -> RunConfig:
    """16 steps at 0.1, damped as the authors' code does."""
    return _with(family, METHODS[kind](lr=0.1, steps=16, cg_damping=22.0), 16)


@row(GLYPHS, "anil")
def anil(family: Family, kind: str) -> RunConfig:
    """5 steps at 0.4."""
    return _with(family, METHODS[kind](lr=0.4, steps=5), 5)


@row(GLYPHS, "boil")
def boil(family: Family, kind: str) -> RunConfig:
    """One step, at test as well; the rate is the method's default."""
    return _with(family, METHODS[kind](), 1)


@row(GLYPHS, "meta_sgd")
def meta_sgd(family: Family, kind: str) -> RunConfig:
    """One step from 0.1 on, at test as well."""
    return _with(family, METHODS[kind](lr=0.1, steps=1), 1)


@row(GLYPHS, "protonet")
def protonet(family: Family, kind: str) -> RunConfig:
    """Nothing of its own: there are no inner steps."""
    return _with(family, METHODS[kind](), 5)


@row(GLYPHS, "pretrained")
def pretrained(family: Family, kind: str) -> RunConfig:
    """Fine-tuned for 20 steps at 0.05."""
    return _with(family, METHODS[kind](lr=0.05), 20)


@row(GLYPHS, "scratch")
def scratch(family: Family, kind: str) -> RunConfig:
    """No training; 100 steps at 0.05."""
    return replace(_with(family, METHODS[kind](lr=0.05), 100), train=Settings(iterations=0))


@row(GLYPHS, "deml")
def deml(family: Family, kind: str) -> RunConfig:
    """Meta-SGD's, and a discriminator on the training classes; as for photographs (see images)."""
    return _with(family, METHODS[kind](lr=0.1), 1)


def _with(family: Family, method: object, steps: int) -> RunConfig:
    """MAML's run with another method, tested after so many steps."""
    base = maml(family, "maml")
    return replace(base, method=method, evaluate=Evaluate(tasks=600, steps=steps))

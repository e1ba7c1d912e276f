"""Runs on glyphs, which need no data set, on a folder of images, and on published data sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..config import METHODS, Conv4, Cub, Evaluate, Folder, Glyphs, Published, RunConfig
from ..config import TestTasks as Test
from ..train.settings import Settings


def folder(way: int, shot: int, kind: str) -> RunConfig:
    """A folder of images, `--data.root DIR`, with MAML's numbers for miniImageNet.

    Finn et al. 2017, appendix A.1 and code: inner rate 0.01 on the summed loss, 5 steps, 10 at
    test, 4 tasks (5-shot: 2), 15 queries, Adam 1e-3, entries of the meta-gradient clipped to 10,
    60 000 iterations, Conv4-32 with max-pools on 84 x 84. BOIL: Oh et al. 2021 and code, rate 0.5,
    one step, 4 tasks, nothing clipped, 30 000 iterations, 64 filters. Reptile: Nichol et al. 2018,
    Adam 1e-3, 8 steps of 10 from 15 shots, 5 tasks, 100 000 iterations, max-pools that keep the
    last row and column. iMAML: lambda 0.5, 10 steps at 0.1, damped as its code for Omniglot does.
    """
    ours: dict[str, Any] = {"lr": 0.01 * way, "steps": 5}
    data = {"way": way, "shot": shot, "queries": 15}
    test, steps = Test(), 10
    train = Settings(iterations=60_000, meta_batch=4 if shot == 1 else 2, clip_value=10.0)
    model = Conv4(filters=32, pool="max", features="flatten", init="xavier")
    if kind == "reptile":
        ours = {"lr": 1e-3, "steps": 8, "batch_size": 10}
        data, test, steps = {**data, "shot": 15}, Test(shot=shot), 50
        train = Settings(
            iterations=100_000, meta_batch=5, optimizer="sgd", lr=1.0, schedule="linear"
        )
        model = replace(model, pool="max-same")
    if kind == "imaml":
        ours = {"lr": 0.1, "steps": 10, "lam": 0.5, "cg_damping": 20.5}
    if kind == "boil":
        ours, steps = {"lr": 0.5, "steps": 1}, 1
        train = Settings(iterations=30_000, meta_batch=4)
        model = Conv4(pool="max", features="flatten")
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
        model=model,
        method=METHODS[kind](**ours),
        train=train,
        evaluate=Evaluate(tasks=600, steps=steps),
    )


def published(dataset: str, way: int, shot: int, kind: str) -> RunConfig:
    """A published data set of photographs, with the numbers of `folder`: those for miniImageNet.

    ProtoNet: Snell et al. 2017, Conv4-64, one task per step, trained 30-way for 1 shot and 20-way
    for 5; the authors halve Adam's 1e-3 every 2000 steps, here it is annealed by a cosine.
    """
    run = folder(way, shot, kind)
    tasks = {"way": run.data.way, "shot": run.data.shot, "queries": run.data.queries}
    if kind == "protonet":
        tasks["way"] = 30 if shot == 1 else 20
        run = replace(
            run,
            test=Test(way=way),
            model=Conv4(pool="max", features="flatten"),
            train=Settings(iterations=20_000, meta_batch=1, schedule="cosine"),
        )
    data = Cub(**tasks) if dataset == "cub" else Published(dataset=dataset, **tasks)
    return replace(run, name=f"{dataset}-{way}w{shot}s/{kind}", data=data)


def glyphs(kind: str) -> RunConfig:
    """Characters of unseen scripts, sized for three minutes on two CPU cores: ours, no paper's.

    A small Conv4 with 32 filters; rates as for Omniglot, annealed by a cosine over the time given.
    """
    ours: dict[str, dict[str, Any]] = {
        "maml": {"lr": 0.4, "steps": 1},
        "fomaml": {"lr": 0.4, "steps": 1},
        "reptile": {"lr": 1e-3, "steps": 5},
        "imaml": {"lr": 0.1, "steps": 16, "cg_damping": 22.0},
        "anil": {"lr": 0.4, "steps": 5},
        "meta_sgd": {"lr": 0.1, "steps": 1},
        "pretrained": {"lr": 0.05},
        "scratch": {"lr": 0.05},
    }
    steps = {"boil": 1, "meta_sgd": 1, "reptile": 50, "imaml": 16, "pretrained": 20, "scratch": 100}
    train = Settings(
        iterations=20_000, meta_batch=16, schedule="cosine", minutes=2.5, validate_every=500,
        log_every=20,
    )  # fmt: skip
    data, test = Glyphs(way=5, shot=1, queries=5), Test(queries=15)
    if kind == "reptile":
        data, test = Glyphs(way=5, shot=5, queries=1), Test(shot=1, queries=15)
        train = replace(train, meta_batch=5, optimizer="sgd", lr=1.0, schedule="linear")
    if kind == "scratch":
        train = Settings(iterations=0)
    return RunConfig(
        name=f"glyphs-5w1s/{kind}",
        data=data,
        test=test,
        model=Conv4(filters=32),
        method=METHODS[kind](**ours.get(kind, {})),
        train=train,
        evaluate=Evaluate(tasks=600, steps=steps.get(kind, 5)),
    )

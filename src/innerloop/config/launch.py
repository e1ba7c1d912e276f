"""From a configuration to a run in a folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..core.files import write_text
from ..data.source import Spec, Splits
from ..train.baseline import Trainable
from ..train.checkpoint import best_of, weights_of
from ..train.keeper import METRICS, Trained
from ..train.log import Observer, Record
from ..train.loop import train
from ..train.ranks import Ranks
from ..train.weights import load_weights
from .run import RunConfig, device, parse_yaml
from .schema import ConfigError, plain

CONFIG, TASK = "config.yaml", "task.json"

SEALED = "# Written by the run; its digest: sha256 "
"""How config.yaml begins; the digest of the lines below follows."""

# What may change between a run and its resumption: everything else would make it another run.
CHANGEABLE = {
    "train": {
        "iterations",
        "lr",
        "schedule",
        "lr_end",
        "clip_value",
        "clip_norm",
        "minutes",
        "validate_every",
        "validate_tasks",
        "validate_steps",
        "checkpoint_every",
        "keep_last",
        "keep_best",
        "log_every",
        "threads",
        "workers",
        "device",
        "tensorboard",
    },
    "evaluate": {"tasks", "steps", "seed"},
}


def launch(
    config: RunConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    ranks: Ranks | None = None,
) -> Trained:
    """Train `config` in `run_dir`, whose `config.yaml` will hold it in full.

    Raises what `train.loop.train` raises, ValueError if the folder is in use (without `resume`) or
    holds another run (with it). Nothing is written before everything has been built; then the
    configuration comes first, so that a run can be resumed from the moment it has begun.
    """
    ranks = ranks or Ranks()
    config = config.located()
    check_folder(config, run_dir, resume)
    ranks.wait()  # the first one writes only when all have looked
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    method, splits = config.build(device(ranks.device(config.train.device)))

    def describe(record: Record) -> None:
        if record["event"] == "start":
            write_text(run_dir / CONFIG, seal(config.to_yaml()), inside_run=True)
            write_text(run_dir / TASK, _task(splits), inside_run=True)

    return train(
        method,
        splits,
        config.train,
        seed=config.seed,
        run_dir=run_dir,
        resume=resume,
        observers=[describe, *observers],
        ranks=ranks,
    )


def check_folder(config: RunConfig, run_dir: Path, resume: bool) -> None:
    """Refuse a folder in use, or with `resume` a folder of another run."""
    try:
        os.fspath(run_dir).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the name of the folder {os.fspath(run_dir)!r} is not UTF-8, and a run keeps its own "
            "name in text files; choose another: --run DIR"
        ) from error
    if run_dir.exists() and not run_dir.is_dir():
        raise ValueError(f"{run_dir} is a file; give a folder: --run DIR")
    if not resume:
        if run_dir.exists() and not all(_left_behind(path) for path in run_dir.iterdir()):
            go_on = f"Go on with the run in it: innerloop train {run_dir} --resume, or choose"
            raise ValueError(
                f"{run_dir} is not empty. "
                f"{go_on if (run_dir / CONFIG).exists() else 'It holds no run; choose'} "
                "another folder: --run DIR"
            )
        return
    before, config = stored(run_dir), config.located()
    changed = [
        f"{path}: {old!r} in {run_dir / CONFIG}, {new!r} now, which is another run: leave it as it "
        "was, or choose another folder: --run DIR"
        for path, old, new in _differences(plain(before), plain(config))
    ]
    if config.train.outer_hyper is not None and config.train.lr != before.train.lr:
        changed.append(
            f"train.lr: {before.train.lr} was where the learned rate started; the run goes on from "
            "the rate it has learned"
        )
    if changed:
        raise ConfigError(f"the resumption of {run_dir}", changed)


def stored(run_dir: Path) -> RunConfig:
    """The configuration of the run in a folder.

    Raises:
        FileNotFoundError: there is no run.
        ConfigError: the file is damaged, edited, or holds mistakes.
    """
    path = run_dir / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{run_dir} holds no run: {path} is missing. Train one with: innerloop train RECIPE "
            "--run DIR, where DIR is a new folder"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [f"damaged, not UTF-8: {error}"]) from error
    first, _, rest = text.partition("\n")
    if first.startswith(SEALED) and text != seal(rest):
        raise ConfigError(
            str(path),
            [
                "damaged or edited: its lines are not those that the run has written. Put them "
                "back, or, if it is meant to say what it says now, delete its first line"
            ],
        )
    return parse_yaml(text, str(path))


def seal(text: str) -> str:
    """`text` below a comment with its digest: `stored` notices any change."""
    return f"{SEALED}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def load(
    run_dir: Path,
    *,
    weights: str = "best",
    settings: Sequence[tuple[str, str]] = (),
    device: str | None = None,
) -> tuple[RunConfig, Trainable, str]:
    """The configuration, the trained method, and the step of its weights. No data is read.

    `weights` is "best" (on validation), "last", or the step of a checkpoint; `settings` are changes
    such as `("method.norm", "support")` that leave the weights' shapes alone.

    Raises:
        FileNotFoundError: there is no run, or not these weights.
        CheckpointError: the weights are damaged or do not fit.
    """
    config = _configured(run_dir, settings, device)
    path = weights_of(run_dir, weights)
    spec, train_outputs = task_spec(run_dir)
    method = config.build_method(spec, train_outputs)
    return config, method, load_weights(path, method)["step"]


def load_best(
    run_dir: Path,
    count: int,
    *,
    settings: Sequence[tuple[str, str]] = (),
    device: str | None = None,
) -> tuple[RunConfig, list[Trainable], list[str]]:
    """As `load`, with the weights of the `count` best validations: a method for each, best first.

    Raises:
        FileNotFoundError: there is no run, or it has not kept so many (`train.keep_best`).
        CheckpointError: the weights are damaged or do not fit.
    """
    config = _configured(run_dir, settings, device)
    paths = best_of(run_dir, count)
    spec, train_outputs = task_spec(run_dir)
    members = [config.build_method(spec, train_outputs) for _ in paths]
    steps = [load_weights(p, m)["step"] for p, m in zip(paths, members, strict=True)]
    return config, members, steps


def task_spec(run_dir: Path) -> tuple[Spec, int]:
    """The shape of a run's test tasks, and the number of outputs it was trained with."""
    path = run_dir / TASK
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return Spec(facts["kind"], tuple(facts["x_shape"]), facts["outputs"]), facts[
            "train_outputs"
        ]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{run_dir} holds no trained run: {path} is missing") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error!r}"[:300]) from error


def _configured(
    run_dir: Path, settings: Sequence[tuple[str, str]], device: str | None
) -> RunConfig:
    config = stored(run_dir).override(settings)
    if device is None:
        return config
    return replace(config, train=replace(config.train, device=device))


def _task(splits: Splits) -> str:
    """The shapes that the weights were made for, and where the tasks came from."""
    spec = splits.test.spec
    facts = {
        "kind": spec.kind,
        "x_shape": list(spec.x_shape),
        "outputs": spec.outputs,
        "train_outputs": splits.trained_outputs,
        "train": splits.train.describe(),
        "validation": splits.validation.describe(),
        "test": splits.test.describe(),
    }
    if splits.auxiliary is not None:
        facts["auxiliary"] = splits.auxiliary.describe()
    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


def _left_behind(path: Path) -> bool:
    """Whether a run that never began has left this: no reason not to begin it now."""
    if path.name == METRICS:
        return path.is_file() and not path.stat().st_size
    return path.name.startswith(".draft-") or (path.name.startswith(".") and path.is_file())


def _differences(
    old: dict[str, Any], new: dict[str, Any], path: str = ""
) -> list[tuple[str, object, object]]:
    """Settings that differ and must not, as (path, old, new)."""
    found: list[tuple[str, object, object]] = []
    for key in sorted({*old, *new}):
        name = f"{path}{key}"
        if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
            found += _differences(old[key], new[key], f"{name}.")
        elif old.get(key) != new.get(key) and key not in CHANGEABLE.get(path.rstrip("."), set()):
            found.append((name, old.get(key), new.get(key)))
    return found

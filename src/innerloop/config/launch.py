"""From a configuration to a run in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..train.checkpoint import State
from ..train.log import Observer, Record
from ..train.loop import train
from .run import RunConfig, load_yaml
from .schema import ConfigError, plain

CONFIG = "config.yaml"

# What may change between a run and its resumption: everything else would make it another run.
CHANGEABLE = {
    "train": {
        "iterations",
        "lr",
        "schedule",
        "clip_value",
        "clip_norm",
        "minutes",
        "validate_every",
        "validate_tasks",
        "validate_steps",
        "checkpoint_every",
        "keep_last",
        "log_every",
        "threads",
        "device",
        "tensorboard",
    },
    "evaluate": {"tasks", "steps", "seed"},
}


def launch(
    config: RunConfig, run_dir: Path, *, resume: bool = False, observers: Sequence[Observer] = ()
) -> State:
    """Train `config` in `run_dir`, whose `config.yaml` will hold it in full.

    Raises what `train.loop.train` raises, ValueError if the folder is in use (without `resume`) or
    holds another run (with it). Nothing is written before everything has been built.
    """
    check_folder(config, run_dir, resume)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    method, splits = config.build()

    def write_config(record: Record) -> None:
        if record["event"] == "start":
            draft = run_dir / f".draft-{CONFIG}"
            draft.write_text(config.to_yaml(), encoding="utf-8")
            draft.replace(run_dir / CONFIG)

    return train(
        method,
        splits,
        config.train,
        seed=config.seed,
        run_dir=run_dir,
        resume=resume,
        observers=[write_config, *observers],
    )


def check_folder(config: RunConfig, run_dir: Path, resume: bool) -> None:
    """Refuse a folder in use, or with `resume` a folder of another run."""
    if run_dir.exists() and not run_dir.is_dir():
        raise ValueError(f"{run_dir} is a file; give a folder: --run DIR")
    if not resume:
        if run_dir.exists() and any(run_dir.iterdir()):
            raise ValueError(
                f"{run_dir} is not empty. Go on with the run in it: innerloop train {run_dir} "
                "--resume, or choose another folder: --run DIR"
            )
        return
    changed = [
        f"{path}: {old!r} in {run_dir / CONFIG}, {new!r} now; only train.* settings may change"
        for path, old, new in _differences(plain(stored(run_dir)), plain(config))
    ]
    if changed:
        raise ConfigError(f"the resumption of {run_dir}", changed)


def stored(run_dir: Path) -> RunConfig:
    """The configuration of the run in a folder.

    Raises:
        FileNotFoundError: there is no run.
    """
    path = run_dir / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{run_dir} holds no run: {path} is missing. Train one with: innerloop train RECIPE "
            f"--run {run_dir}"
        )
    return load_yaml(path)


def _differences(old: dict, new: dict, path: str = "") -> list[tuple[str, object, object]]:  # type: ignore[type-arg]
    """Settings that differ and must not, as (path, old, new)."""
    found: list[tuple[str, object, object]] = []
    for key in sorted({*old, *new}):
        name = f"{path}{key}"
        if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
            found += _differences(old[key], new[key], f"{name}.")
        elif old.get(key) != new.get(key) and key not in CHANGEABLE.get(path.rstrip("."), set()):
            found.append((name, old.get(key), new.get(key)))
    return found

"""A run as data: what to learn from, with which network and method, and how it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from ..core import streams
from ..core.bounds import Count, Positive
from ..data.source import Splits
from ..method import Method
from ..train.baseline import Pretrained
from ..train.settings import Settings
from . import pieces, sources
from .schema import ConfigError, merge, nest, plain, read
from .signature import union
from .sources import TestTasks

DataSection = union(sources.SOURCES)
ModelSection = union(pieces.MODELS)
MethodSection = union(pieces.METHODS)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """The test that `innerloop evaluate` makes unless told otherwise.

    tasks: test tasks; steps: inner steps (null: as in training); seed: of the test tasks.
    """

    tasks: Positive = 600
    steps: Count | None = None
    seed: Count = 0


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes. `name` is for people."""

    name: str
    seed: Count = 0
    data: DataSection  # type: ignore[valid-type]
    test: TestTasks = field(default_factory=TestTasks)
    model: ModelSection  # type: ignore[valid-type]
    method: MethodSection  # type: ignore[valid-type]
    train: Settings = field(default_factory=Settings)
    evaluate: Evaluate = field(default_factory=Evaluate)

    def override(self, dotted: Iterable[tuple[str, str]]) -> RunConfig:
        """With settings such as `("train.lr", "0.01")` changed; all mistakes in one ConfigError."""
        changes = nest(dotted)
        return read(RunConfig, merge(plain(self), changes), "the overrides") if changes else self

    def to_yaml(self) -> str:
        """The whole configuration, defaults included."""
        return yaml.safe_dump(plain(self), sort_keys=False, allow_unicode=True)

    def device(self) -> torch.device:
        """Where the run computes; `train.device` "auto" is the accelerator if there is one."""
        return device(self.train.device)

    def build(self, where: torch.device | str | None = None) -> tuple[Method | Pretrained, Splits]:
        """The method, its initial weights drawn from the stream (seed, "init"), and its sources."""
        where = where or self.device()
        splits = sources.build(self.data, self.test, where)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(streams.derive(self.seed, "init"))
            method, splits = pieces.build(self.method, self.model, splits)
        return method.to(where), splits


def device(name: str) -> torch.device:
    """"auto" is the accelerator if there is one, else the CPU; any other name is itself."""
    if name != "auto":
        try:
            chosen = torch.device(name)
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError) as error:
            line = str(error).splitlines()[0]
            raise ValueError(f"train.device={name!r} cannot be used: {line}; use 'cpu'") from error
        return chosen
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def load_yaml(path: Path) -> RunConfig:
    """The configuration in a YAML file.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: all mistakes in it.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [f"not YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(content, Mapping):
        raise ConfigError(str(path), ["expected sections name, data, model, method, train"])
    return read(RunConfig, content, str(path))

"""A run as data: what to learn from, with which network and method, and how it is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from ..core import streams
from ..core.bounds import Count, Positive
from ..data.source import Spec, Splits
from ..train.baseline import Trainable
from ..train.settings import Settings
from . import own, own_pieces, pieces, sources
from .auxiliary import Auxiliary, labelled
from .own import OwnData, OwnModel
from .reading import json_schema, read
from .schema import ConfigError, merge, nest, plain
from .signature import union
from .sources import TestTasks
from .yaml_text import MOST_CHARACTERS, NotReadable, load_text

if TYPE_CHECKING:  # sections made from signatures have no static type
    from typing import Any as DataSection
    from typing import Any as MethodSection
    from typing import Any as ModelSection
else:
    DataSection = union(sources.SOURCES) | OwnData
    ModelSection = union(pieces.MODELS) | OwnModel
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
    """Everything that decides what a run computes. `name` is for people.

    `files` holds the SHA-256 of every file of one's own that the run uses, by its whole path.
    """

    name: str
    seed: Count = 0
    data: DataSection
    test: TestTasks = field(default_factory=TestTasks)
    auxiliary: Auxiliary = field(default_factory=Auxiliary)
    model: ModelSection
    method: MethodSection
    train: Settings = field(default_factory=Settings)
    evaluate: Evaluate = field(default_factory=Evaluate)
    files: dict[str, str] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """What no single setting can tell."""
        if isinstance(self.data, sources.Folder) and not self.data.root:
            return ["data.root: missing; name the folder of images: --data.root DIR"]
        if self.auxiliary != Auxiliary() and self.method.kind != pieces.DEML:
            return [f"auxiliary: {self.method.kind} has no discriminator; use method.kind=deml"]
        return []

    def override(self, dotted: Iterable[tuple[str, str]]) -> RunConfig:
        """With settings such as `("train.lr", "0.01")` changed; all mistakes in one ConfigError."""
        return read(RunConfig, merge(plain(self), nest(dotted)), f"the settings of {self.name}")

    def places(self) -> list[str]:
        """Every FILE.py:NAME of the run."""
        found = [s.place for s in (self.data, self.model) if isinstance(s, own.Own)]
        loss = getattr(self.method, "loss", None)
        return [*found, *([loss] if loss is not None and own.is_place(loss) else [])]

    def located(self) -> RunConfig:
        """The same run with the whole paths of its own files, and a digest of each that has none.

        Raises FileNotFoundError for a file that is not there.
        """
        if not self.places():
            return self

        def whole(section: Any, name: str) -> Any:
            return replace(section, **{name: own.located(getattr(section, name))})

        data, model, method = self.data, self.model, self.method
        if isinstance(data, own.Own):
            data = whole(data, "place")
        if isinstance(model, own.Own):
            model = whole(model, "place")
        if own.is_place(getattr(method, "loss", "")):
            method = whole(method, "loss")
        files = dict(map(own.digest, self.places())) | self.files
        return replace(self, data=data, model=model, method=method, files=files)

    def to_yaml(self) -> str:
        """The whole configuration, defaults included."""
        return yaml.safe_dump(plain(self), sort_keys=False, allow_unicode=True)

    def device(self) -> torch.device:
        """Where the run computes; `train.device` "auto" is the accelerator if there is one."""
        return device(self.train.device)

    def build(self, where: torch.device | str | None = None) -> tuple[Trainable, Splits]:
        """The method, its initial weights drawn from the stream (seed, "init"), and its sources."""
        where = where or self.device()
        splits = sources.build(self.data, self.test, where, self.files)
        splits = pieces.training_sources(self.method, splits)
        if self.method.kind == pieces.DEML:
            splits = replace(splits, auxiliary=labelled(splits, self.auxiliary))
        method = self.build_method(splits.test.spec, splits.trained_outputs, where)
        loss = getattr(self.method, "loss", "")
        if own.is_place(loss):
            network = pieces.network(self.model, splits.test.spec, digests=self.files)
            own_pieces.check(loss, own_pieces.loss(loss, self.files), network, splits)
        return method, splits

    def build_method(
        self, spec: Spec, train_outputs: int, where: torch.device | str | None = None
    ) -> Trainable:
        """The method alone, for test tasks of this shape; no data is read."""
        classes = train_outputs if spec.kind == "classification" else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(streams.derive(self.seed, "init"))
            method = pieces.build(self.method, self.model, spec, classes, self.files)
        return method.to(where or self.device())


def device(name: str) -> torch.device:
    """ "auto" is the accelerator if there is one, else the CPU; any other name is itself."""
    if name != "auto":
        try:
            chosen = torch.device(name)
            torch.zeros(1, device=chosen).item()  # "meta" has shapes, and no numbers
        except (RuntimeError, AssertionError) as error:
            line = str(error).splitlines()[0]
            raise ValueError(f"train.device={name!r} cannot be used: {line}; use 'cpu'") from error
        return chosen
    accelerator = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    )
    return accelerator or torch.device("cpu")


def load_yaml(path: Path) -> RunConfig:
    """The configuration in a YAML file.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: all mistakes in it.
    """
    with path.open("rb") as file:
        content = file.read(4 * MOST_CHARACTERS)  # never all of a device or of a mistaken archive
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [f"not UTF-8 text: {error.reason}"]) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> RunConfig:
    """The configuration in a YAML text; `where` names it in a ConfigError."""
    try:
        content = load_text(text)
    except NotReadable as error:
        raise ConfigError(where, [str(error)]) from error
    if not isinstance(content, Mapping):
        raise ConfigError(where, ["expected sections name, data, model, method, train"])
    return read(RunConfig, content, where)


def schema() -> dict[str, Any]:
    """The JSON schema of a run's YAML file, for editors that complete and check while one types."""
    return json_schema(RunConfig, "A run of innerloop")

"""`innerloop reproduce`: every method of a table trained, tested, and put beside its paper."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.console import Console

from ..config import RunConfig, check_folder, plain, sources, stored
from ..config.launch import CONFIG
from ..config.schema import ConfigError, nearest
from ..evaluate import Evaluable, EvaluationResult
from ..learn import GradientLearner
from ..method import Method
from ..methods import nil
from ..recipes import recipe
from ..recipes.studies import STUDIES, Cell, Study
from ..report.report import dotted
from ..train.checkpoint import ranked
from .commands import Reproduce
from .console import say, terminal
from .cost import Cost, read_cost
from .overrides import Overrides
from .scoring import Trained, scored
from .tables import Row, write_tables
from .training import train_run

MANY = 15
"""Queries per class of the first protocol; the second has as many as shots, as MAML's code."""
HARMLESS = ("device", "tensorboard")
"""Settings of `train` that may differ from those of a run that is kept."""


@dataclass(frozen=True)
class Planned:
    """A cell, the run it needs, and where that is."""

    cell: Cell
    config: RunConfig
    folder: Path

    @property
    def shot(self) -> int:
        """Support examples per class at test."""
        return int(self.config.test.shot or self.config.data.shot)

    @property
    def setting(self) -> str:
        """The kind of task at test, such as 5w1s."""
        return f"{self.config.test.way or self.config.data.way}w{self.shot}s"

    @property
    def protocols(self) -> dict[str, int]:
        """Queries per class at test, by the name of the result's file."""
        names = (MANY, self.shot)
        return {f"{self.cell.method}-{count}-queries": count for count in names}


def reproduce(asked: Reproduce, overrides: Overrides) -> None:
    """Train and test what is missing, one cell after the other, and write the table after each."""
    console = terminal()
    study = study_of(asked.dataset, asked.budget)
    for key, value in overrides.pairs:
        if key in ("method.kind", "data.kind"):
            raise ValueError(
                f"expected settings that all rows can share, got --{key} {value}: rows are chosen "
                "with --methods, and the data set is the word after reproduce"
            )
    folder = asked.out or Path("runs") / f"reproduce-{asked.dataset}-{asked.budget}"
    everything = plan(study, overrides, asked.minutes, folder)
    methods = choose(study, asked.methods)
    chosen = [p for p in everything if p.cell.method in methods]
    command = f"innerloop reproduce {asked.dataset} --budget {asked.budget}"
    failed: dict[str, str] = {}
    if asked.table and not any((p.folder / CONFIG).exists() for p in everything):
        raise ValueError(
            f"{folder} holds no run of this table: name the folder that does with --out DIR, or "
            "leave --table out to train them"
        )
    if not asked.table:
        check(chosen)
        for planned in chosen:
            try:
                run(console, planned)
            except ValueError as error:  # of this cell alone: the others go on
                failed[planned.folder.name] = str(error)
                say(console, f"error: {planned.cell.recipe}: {error}", "red")
            publish(study, everything, command, folder)
    for path in publish(study, everything, command, folder):
        say(console, f"written to {path}")
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(chosen)} cells failed: {', '.join(failed)}. Each error is "
            "printed above; the same command tries them again"
        )


def study_of(dataset: str, budget: str) -> Study:
    """The table of a data set at a budget.

    Raises:
        ValueError: there is none; names those there are.
    """
    if dataset not in STUDIES:
        raise ValueError(f"nothing to reproduce for {dataset!r}; {nearest(dataset, STUDIES)}")
    if budget not in STUDIES[dataset]:
        raise ValueError(f"unknown budget {budget!r}; {nearest(budget, STUDIES[dataset])}")
    return STUDIES[dataset][budget]


def choose(study: Study, methods: Sequence[str]) -> list[str]:
    """The methods that were asked for, or all."""
    known = list(dict.fromkeys(cell.method for cell in study.cells))
    for name in methods:
        if name not in known:
            raise ValueError(f"no method {name!r} in this table; {nearest(name, known)}")
    return list(methods) or known


def plan(study: Study, overrides: Overrides, minutes: float | None, folder: Path) -> list[Planned]:
    """Every cell with its configuration; all mistakes in the settings come before anything runs."""
    limit = study.minutes if minutes is None else minutes
    ours = [] if limit is None else [("train.minutes", str(limit))]
    return [
        Planned(
            cell,
            recipe(cell.recipe).override([*ours, *overrides.pairs]),
            folder / cell.recipe.replace("/", "-"),
        )
        for cell in study.cells
    ]


def check(chosen: Sequence[Planned]) -> None:
    """Refuse, before anything is trained, missing data and folders that hold other runs.

    Raises:
        FileNotFoundError: the data set is not there.
        ConfigError: a folder holds a run with other settings.
    """
    sources.build(chosen[0].config.data, chosen[0].config.test, "cpu")
    folders: dict[str, list[str]] = {}
    for planned in chosen:
        if not (planned.folder / CONFIG).exists():
            continue
        check_folder(planned.config, planned.folder, resume=True)
        old, new = plain(stored(planned.folder).train), plain(planned.config.train)
        for key in new:
            if old.get(key) != new[key] and key not in HARMLESS:
                said = (
                    f"train.{key} is {old.get(key)!r} there and {new[key]!r} now; go on with "
                    f"--train.{key} {_typed(old.get(key))}, or choose another folder: --out DIR"
                )
                folders.setdefault(said, []).append(planned.folder.name)
    if folders:
        problems = [f"{', '.join(dict.fromkeys(v))}: {k}" for k, v in folders.items()]
        raise ConfigError("the runs that are there", problems)


def run(console: Console, planned: Planned) -> None:
    """Train the cell's run unless it has ended, and test what has not been tested."""
    folder = planned.folder
    if not read_cost(folder).ended:
        begun = (folder / CONFIG).exists()
        train_run(console, planned.config, folder, resume=begun, then=None, apart=True)
    for name, queries in planned.protocols.items():
        path = folder / f"{name}.json"
        if not path.exists():
            result = tested(console, planned, queries)
            say(console, f"{planned.cell.method} {planned.setting}, {name}: {result.text()}")
            result.to_json(path)


def tested(console: Console, planned: Planned, queries: int) -> EvaluationResult:
    """The score on test tasks with so many queries per class."""
    # MAML++ is scored by the ensemble of its best validations, however many there were.
    kept = len(ranked(planned.folder)) if planned.config.train.keep_best > 1 else 0
    asked = Overrides((("test.queries", str(queries)),))
    found = Trained(planned.folder, asked, "best", ensemble=kept or None)
    settings, name = planned.config.evaluate, planned.cell.method
    method: Evaluable = found.method
    if name == "nil":
        # The network of another method, without its head and without its inner loop.
        method = nil(cast(GradientLearner, cast(Method, method).learner).model)
    steps = None if name == "nil" else settings.steps
    return scored(
        console, f"{name} {planned.setting}", method, found.splits,
        tasks=settings.tasks, steps=steps, seed=settings.seed,
    )  # fmt: skip


def publish(
    study: Study, everything: Sequence[Planned], command: str, folder: Path
) -> tuple[Path, Path]:
    """The table of what is there, as Markdown and as CSV; cells that are not there say so."""
    rows = [row(study, planned) for planned in everything]
    typed = " ".join([command, *changed(study, everything, rows)])
    return write_tables(folder, study.title, f"`{typed}`: {study.about}.", rows)


def changed(study: Study, everything: Sequence[Planned], rows: Sequence[Row]) -> list[str]:
    """What was typed after the command for the runs that are there: settings that they share.

    Read from the runs, so that a table that is only written again says it too.
    """
    plans = {p.cell: dotted(plain(p.config)) for p in plan(study, Overrides(), None, Path())}
    runs = {
        p.cell: dotted(plain(found.config))
        for p, found in zip(everything, rows, strict=True)
        if (p.folder / CONFIG).exists()
    }
    words = []
    for key in dict.fromkeys(key for run in runs.values() for key in run):
        values = [run.get(key) for run in runs.values()]
        new = any(run.get(key) != plans[cell].get(key) for cell, run in runs.items())
        if new and all(value == values[0] for value in values):
            name = "minutes" if key == "train.minutes" else key
            words.append(f"--{name} {_typed(values[0])}")
    return words


def row(study: Study, planned: Planned) -> Row:
    """What is known of a cell."""
    folder, cell = planned.folder, planned.cell
    begun = (folder / CONFIG).exists()
    config = stored(folder) if begun else planned.config
    cost = read_cost(folder) if begun else Cost()
    paths = [folder / f"{name}.json" for name in planned.protocols]
    results = [EvaluationResult.from_json(path) if path.exists() else None for path in paths]
    return Row(
        setting=planned.setting,
        method=cell.method,
        recipe=cell.recipe,
        config=config,
        cost=cost,
        many=results[0],
        few=results[1],
        queries=planned.shot,
        published=study.published.get(cell.method, {}).get(planned.setting),
    )


def _typed(value: object) -> str:
    """A setting's value as a word of a command line."""
    return shlex.quote(value if isinstance(value, str) else json.dumps(value))

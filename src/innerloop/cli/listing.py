"""`innerloop recipes`, `schema`, and the settings that `train --help` lists."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Column, Table

from ..config import METHODS, MODELS, SOURCES, RunConfig, plain, schema
from ..config.reading import settings
from ..config.schema import nearest
from ..core.files import write_text
from ..recipes import RECIPES, Recipe
from .console import say, show_table, terminal
from .outputs import check_target


def list_recipes(part: str) -> None:
    """All families, or the recipes whose name contains `part` with their main numbers."""
    console = terminal()
    chosen = [recipe for name, recipe in RECIPES.items() if part in name]
    if not chosen:
        families_known = dict.fromkeys(name.partition("/")[0] for name in RECIPES)
        raise ValueError(f"no recipe's name contains {part!r}; {nearest(part, families_known)}")
    # Too narrow a window breaks lines between words, never shortens a name that is to be typed.
    show_table(console, numbers(chosen) if part else families(chosen))
    if not part:
        say(console, "innerloop recipes NAME shows the numbers, innerloop train NAME --show all")


def families(recipes: list[Recipe]) -> Table:
    """One row per family: its name, what it is, and its methods."""
    table = Table(Column("recipe", no_wrap=True), "tasks", "methods", box=None, pad_edge=False)
    methods: dict[tuple[str, str], list[str]] = {}
    for recipe in recipes:
        family, _, method = recipe.name.partition("/")
        methods.setdefault((family, recipe.about), []).append(method)
    for (family, about), names in methods.items():
        table.add_row(f"{family}/", about, " ".join(names))
    return table


def numbers(recipes: list[Recipe]) -> Table:
    """One row per recipe."""
    table = Table(
        Column("recipe", no_wrap=True),
        "iterations",
        "tasks",
        "inner steps x rate",
        "outer",
        "source",
        box=None,
        pad_edge=False,
    )
    for recipe in recipes:
        config = recipe.build()
        train, method = config.train, config.method
        steps, lr = getattr(method, "steps", None), getattr(method, "lr", None)
        limit = f" or {train.minutes:g} min" if train.minutes else ""
        table.add_row(
            recipe.name,
            f"{train.iterations}{limit}",
            str(train.meta_batch),
            " x ".join(f"{n:g}" for n in (steps, lr) if n is not None),
            f"{train.optimizer} {train.lr:g} {train.schedule}",
            recipe.paper,
        )
    return table


def print_schema(out: Path | None) -> None:
    """The JSON schema of a run's file, on the terminal or into a file."""
    text = json.dumps(schema(), indent=2) + "\n"
    console = terminal()
    if out is None:
        console.print(text, end="", soft_wrap=True)
        return
    write_text(check_target(out), text)
    say(
        console,
        f"written to {out}. A first line such as\n# yaml-language-server: $schema={out}\n"
        "in a run's YAML file lets an editor complete it",
    )


def print_settings() -> None:
    """Every setting of a run with its default, after the help of `train`."""
    console = terminal()
    table = Table(
        Column("setting", no_wrap=True), "may be", "default", box=None, pad_edge=False, title=None
    )
    for name, expected, default in settings(RunConfig):
        missing = default is dataclasses.MISSING
        table.add_row(f"--{name}", expected, "" if missing else json.dumps(plain(default)))
    say(console, "\nSettings of the outer loop and of the tests:\n")
    show_table(console, table)
    for title, table_of in (("data", SOURCES), ("model", MODELS), ("method", METHODS)):
        say(console, f"\n--{title}: {', '.join(sorted(table_of))}")
        if title != "method":
            say(console, f"    or your own: --{title} FILE.py:NAME")
    say(
        console,
        "\nEach kind has settings of its own (--method.lr, --data.way): innerloop train RECIPE "
        "--show prints those of a recipe.",
    )


def meant(name: str, options: Sequence[str]) -> str:
    """The words to add about an option that there is not: settings of that name, or the nearest."""
    found = [key for key in dict.fromkeys(_dotted()) if key.rpartition(".")[2] == name]
    if found:
        said = {"method.lr": " (of the inner steps)", "train.lr": " (of the outer optimiser)"}
        words = [f"--{key}{said.get(key, '')}" for key in found]
        return f"did you mean {' or '.join(words)}?"
    known = [*(o for o in options if o not in ("recipe", "run", "runs")), *dict.fromkeys(_dotted())]
    close = nearest(name, known)
    if close.startswith("did you"):
        return close.replace("mean ", "mean --")
    return "see innerloop train --help for all settings"


def _dotted() -> Iterator[str]:
    for title, table in (("method", METHODS), ("model", MODELS), ("data", SOURCES)):
        for section in table.values():
            yield from (f"{title}.{field.name}" for field in dataclasses.fields(section))
    yield from (name for name, _, _ in settings(RunConfig) if "." in name)

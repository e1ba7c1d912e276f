"""`innerloop recipes`: what can be trained by name."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table

from ..config.schema import nearest
from ..recipes import RECIPES, Recipe


def recipes_command(part: str) -> None:
    """All families, or the recipes whose name contains `part` with their main numbers."""
    console = Console()
    chosen = [recipe for name, recipe in RECIPES.items() if part in name]
    if not chosen:
        raise ValueError(f"no recipe's name contains {part!r}; {nearest(part, RECIPES)}")
    # Too narrow a window breaks lines between words, never shortens a name that is to be typed.
    console.print(numbers(chosen) if part else families(chosen))
    if not part:
        console.print("innerloop recipes NAME shows the numbers, innerloop train NAME --show all")


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

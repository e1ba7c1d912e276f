"""How a recipe gets its name: one function per row of a paper's table, for a family of tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ..config import METHODS, RunConfig
from ..config.schema import nearest
from .cite import METHODS as PAPERS
from .cite import label

MESSAGE = "see all of them with: innerloop recipes"


@dataclass(frozen=True)
class Family:
    """Tasks that many methods are tried on, such as `omniglot-5w1s`: the first part of a name.

    `way` is 0 for curves; `dataset` is the name of a published data set.
    """

    name: str
    about: str
    shot: int
    way: int = 0
    dataset: str = ""


@dataclass(frozen=True)
class Recipe:
    """A named run: `about` in a few words, `paper` the row it is named after."""

    name: str
    about: str
    paper: str
    build: Callable[[], RunConfig]


Row = Callable[[Family, str], RunConfig]
"""A row of a table: the run of a method on the tasks of a family, whatever name it has."""

_rows: dict[Family, list[Recipe]] = {}


def row(families: Iterable[Family], *kinds: str) -> Callable[[Row], Row]:
    """Make the function below it the recipe `FAMILY/KIND` of these methods on each of these tasks.

    Raises ValueError for a name that has a recipe already.
    """

    def register(function: Row) -> Row:
        for family in families:
            for kind in kinds:
                _register(family, kind, function)
        return function

    return register


def _register(family: Family, kind: str, function: Row) -> None:
    name = f"{family.name}/{kind}"
    rows = _rows.setdefault(family, [])
    if any(recipe.name == name for recipe in rows):
        raise ValueError(f"two functions make the recipe {name}")

    def build() -> RunConfig:
        return replace(function(family, kind), name=name)

    rows.append(Recipe(name, family.about, paper(kind), build))


def recipes() -> dict[str, Recipe]:
    """Every recipe by its name, family by family."""
    return {recipe.name: recipe for rows in _rows.values() for recipe in rows}


def recipe(name: str) -> RunConfig:
    """The run of this name.

    Raises:
        ValueError: there is no such recipe; names the nearest one, or how to train the method.
    """
    known = recipes()
    if name in known:
        return known[name].build()
    tasks, _, kind = name.partition("/")
    others = [other for other in known if other.startswith(f"{tasks}/")]
    if others and kind in METHODS:
        raise ValueError(
            f"there is no recipe for {kind} on {tasks}, whose numbers would be a paper's. Train it "
            f"with numbers of your own: innerloop train {others[0]} --method {kind}; then "
            f"--method.lr and the like, and see innerloop recipes {tasks}"
        )
    raise ValueError(f"unknown recipe {name[:100]!r}; {_advice(name, known)}; {MESSAGE}")


def _advice(name: str, known: Iterable[str]) -> str:
    close = nearest(name, known)
    return close if close.startswith("did you mean") else "no name is near it"


ROWS = {
    "bias_transformation": "Finn et al. 2017 (one-shot imitation)",
    "tr_maml": "Collins et al. 2020",
    "pretrained": "baseline of Finn et al. 2017",
    "scratch": "baseline: random weights",
}
"""What a row is named after where it is not just the method's first paper."""


def paper(kind: str) -> str:
    """What the row of this method is named after."""
    return ROWS[kind] if kind in ROWS else label(PAPERS[kind][0])

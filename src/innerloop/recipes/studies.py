"""Which recipes stand beside each other in a table, and what their papers report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .omniglot_quick import BORROWED, QUICK

TASKS = ("5w1s", "5w5s", "20w1s", "20w5s")


@dataclass(frozen=True)
class Reported:
    """An accuracy in per cent as printed, and where."""

    value: str
    source: str


@dataclass(frozen=True)
class Cell:
    """One row of a table: the method that is tested, and the recipe whose run it is tested on."""

    method: str
    recipe: str


@dataclass(frozen=True)
class Study:
    """One table. `minutes` of training for each cell; None leaves it to the recipes."""

    title: str
    about: str
    cells: tuple[Cell, ...]
    minutes: float | None = None
    published: dict[str, dict[str, Reported]] = field(default_factory=dict)


def _row(source: str, *values: str) -> dict[str, Reported]:
    """Values in the order of `TASKS`; an empty one was not reported."""
    pairs = zip(TASKS, values, strict=True)
    return {setting: Reported(value, source) for setting, value in pairs if value}


OMNIGLOT = {
    "maml": _row(
        "Finn et al. 2017", "98.7 ± 0.4", "99.9 ± 0.1", "95.8 ± 0.3", "98.9 ± 0.2"
    ),
    "fomaml": _row(
        "quoted by Rajeswaran et al. 2019", "98.3 ± 0.5", "99.2 ± 0.2", "89.4 ± 0.5", "97.9 ± 0.1"
    ),
    "reptile": _row(
        "Nichol et al. 2018, transductive",
        "97.68 ± 0.04", "99.48 ± 0.06", "89.43 ± 0.14", "97.12 ± 0.32",
    ),
    "imaml": _row(
        "Rajeswaran et al. 2019, gradient descent",
        "99.16 ± 0.35", "99.67 ± 0.12", "94.46 ± 0.42", "98.69 ± 0.1",
    ),
    "maml_plus_plus": _row(
        "Antoniou et al. 2019, ensemble of five", "99.47", "99.85", "97.65", "99.33"
    ),
    "anil": _row("Raghu et al. 2020, ± std of runs", "", "", "96.2 ± 0.5", "98.0 ± 0.3"),
    "nil": _row("Raghu et al. 2020, ± std of runs", "", "", "96.7 ± 0.3", "98.0 ± 0.04"),
    "meta_sgd": _row(
        "Li et al. 2017", "99.53 ± 0.26", "99.93 ± 0.09", "95.93 ± 0.38", "98.97 ± 0.19"
    ),
    "r2d2": _row(
        "Bertinetto et al. 2019, unconfirmed, not transductive",
        "98.55 ± 0.05", "99.66 ± 0.02", "94.70 ± 0.05", "98.91 ± 0.02",
    ),
    "matching": _row("Vinyals et al. 2016", "98.1", "98.9", "93.8", "98.5"),
    "protonet": _row(
        "Snell et al. 2017, quoted by Mishra et al. 2018, not transductive",
        "97.4", "99.3", "96.0", "98.9",
    ),
}  # fmt: skip
"""Omniglot accuracy. BOIL, MetaOptNet and the methods not named here report none."""

TWENTY_WAY = ("maml", "fomaml", "maml_plus_plus", "anil", "r2d2", "protonet")
PAPER_BUDGET = (
    "maml",
    "fomaml",
    "reptile",
    "imaml",
    "maml_plus_plus",
    "anil",
    "r2d2",
    "metaoptnet",
    "protonet",
)


def _cells(family: str, methods: Iterable[str]) -> tuple[Cell, ...]:
    return tuple(Cell(m, f"{family}/{BORROWED.get(m, m)}") for m in methods)


def _with_borrowers(methods: Iterable[str]) -> Iterator[str]:
    """Each method, and behind it those that are tested on its weights."""
    for method in methods:
        yield method
        yield from (borrower for borrower, owner in BORROWED.items() if owner == method)


STUDIES: dict[str, dict[str, Study]] = {
    "omniglot": {
        "cpu": Study(
            "Omniglot at equal wall-clock",
            "the same Conv4-64, split, test tasks and training time for every method",
            _cells("omniglot-5w1s-quick", _with_borrowers(QUICK))
            + _cells("omniglot-20w1s-quick", TWENTY_WAY),
            minutes=6.0,
            published=OMNIGLOT,
        ),
        "paper": Study(
            "Omniglot at the papers' budgets",
            "the recipe of each paper in full, networks and splits as there",
            tuple(
                cell for setting in TASKS for cell in _cells(f"omniglot-{setting}", PAPER_BUDGET)
            ),
            published=OMNIGLOT,
        ),
    },
}
"""By data set and budget. Another data set is one more entry, and its recipes."""

"""Writes the table of methods in docs from the pages of the methods: docs/table_of_methods.py

A page under docs/methods says its row in a comment below its title, so that a new method is one
page: names | adapts | solver | objective | estimator | source. The order is that of the files of
`innerloop.methods`; pages that are no method of the library come last.
"""

from __future__ import annotations

import re
from pathlib import Path

from innerloop.methods import METHODS

DOCS = Path(__file__).resolve().parent
COLUMNS = ("method", "adapts", "solver", "objective", "estimator", "source")
CHANGES = ("estimators", "scopes", "solvers", "objectives", "features", "baselines")
ROW = re.compile(r"^<!-- row: (.*) -->$", re.MULTILINE)
BEGIN, END = "<!-- table: python docs/table_of_methods.py -->\n\n", "\n<!-- end of the table -->\n"


def row(page: Path) -> list[str]:
    """The cells that a page gives. Raises ValueError unless it has one row of all columns."""
    found = ROW.findall(page.read_text(encoding="utf-8"))
    cells = [cell.strip() for cell in found[0].split(" | ")] if len(found) == 1 else []
    if len(cells) != len(COLUMNS):
        raise ValueError(
            f"{page.name}: expected one line <!-- row: {' | '.join(COLUMNS)} --> below the title, "
            f"got {len(found)} of them with {len(cells)} cells"
        )
    return cells


def names(page: Path) -> list[str]:
    """The methods that a page is about, as `innerloop.methods` calls them."""
    return [name for name in re.findall(r"`(\w+)`", row(page)[0]) if name in METHODS]


def table() -> str:
    """The rows of all pages, in the order of the named methods."""
    places = {name: i for i, name in enumerate(METHODS)}

    def place(page: Path) -> tuple[int, int, str]:
        own = names(page)
        if not own:
            return len(CHANGES), 0, page.name
        module = METHODS[own[0]].function.__module__.rpartition(".")[2]
        return CHANGES.index(module), places[own[0]], page.name

    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for page in sorted((DOCS / "methods").glob("*.md"), key=place):
        first, *others = row(page)
        called, colon, more = first.partition(":")
        lines.append(f"| [{called}](methods/{page.name}){colon}{more} | {' | '.join(others)} |")
    return "\n".join(lines) + "\n"


def filled(text: str) -> str:
    """docs/methods.md with the table that the pages give."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/methods.md has no place for the table: {BEGIN.strip()} … {END}")
    return before + begin + table() + end + after


def main() -> None:
    home = DOCS / "methods.md"
    home.write_text(filled(home.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

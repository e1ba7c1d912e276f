"""What the doctor found, as data and as text."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One finding.

    `ok` says whether the model can be meta-learned as far as this aspect goes; `layer` is the
    qualified name of the layer concerned ("" if none); `advice` is what to do or to know.
    """

    aspect: str
    ok: bool
    layer: str = ""
    detail: str = ""
    advice: str = ""

    @property
    def level(self) -> str:
        """`ok`; `note` where it works and there is something to know; `FAIL`."""
        return ("note" if self.advice else "ok") if self.ok else "FAIL"


@dataclass(frozen=True)
class CheckReport:
    """The findings on one model. `str(report)` is a table, `raise_if_failed()` an assertion."""

    model: str
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """True if nothing failed; notes do not count."""
        return all(row.ok for row in self.rows)

    def failures(self) -> tuple[Row, ...]:
        """The rows that failed."""
        return tuple(row for row in self.rows if not row.ok)

    def row(self, aspect: str) -> Row:
        """The worst row on `aspect`; raises KeyError if the aspect was not examined."""
        rows = [row for row in self.rows if row.aspect == aspect]
        if not rows:
            raise KeyError(f"{aspect!r} was not examined; there are {self.aspects()}")
        return min(rows, key=lambda row: (row.ok, not row.advice))

    def aspects(self) -> list[str]:
        """The aspects examined, in order."""
        return list(dict.fromkeys(row.aspect for row in self.rows))

    def raise_if_failed(self) -> None:
        """Raise ValueError naming every failed aspect, its layer and what to do."""
        if failures := self.failures():
            lines = "\n".join(_entry(row) for row in failures)
            raise ValueError(f"{self.model} cannot be meta-learned as it is:\n{lines}")

    def __str__(self) -> str:
        verdict = "can be meta-learned" if self.ok else "cannot be meta-learned as it is"
        return "\n".join([f"{self.model}: {verdict}", *(_entry(row) for row in self.rows)])


def _entry(row: Row) -> str:
    text = ": ".join(part for part in (row.layer, row.detail) if part)
    head = f"  {row.level:4}  {row.aspect:<18} "
    lines = textwrap.wrap(text, 100 - len(head)) or [""]
    if row.advice:
        lines += textwrap.wrap(row.advice, 98 - len(head), initial_indent="> ")
    return "\n".join(
        (head if i == 0 else " " * len(head)) + s for i, s in enumerate(lines)
    ).rstrip()

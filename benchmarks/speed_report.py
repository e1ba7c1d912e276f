"""The results of the speed benchmark as Markdown, CSV and a picture."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from bench import table
from matplotlib.axes import Axes
from speed_checks import PEERS, Check, Found
from speed_rows import ROWS, Row

from innerloop.report.plot import style

COLOURS = {
    "innerloop": style.BLUE,
    "traced": style.BLUE,
    "compiled": style.BLUE,
    "workers": style.GREEN,
    "learn2learn": style.VERMILION,
    "higher": style.ORANGE,
    "torchopt": style.PURPLE,
    "vmap": style.MUTED,
    "vmap-compiled": style.MUTED,
    "jax": style.INK,
}
SHAPES = {"innerloop": "o", "traced": "s", "compiled": "o", "workers": "^"}
COMPILED = ("compiled", "vmap-compiled", "jax")
SEEN = 2.0**20
"""Bytes below which the peak of a process cannot be told from none."""
HEADER = [
    "engine",
    "median (quartiles), ms",
    "tasks/s",
    "first call, s",
    "memory, MiB",
    "error in float32",
    "in float64",
    "x the fastest peer",
    "x the floor",
]
COLUMNS = [
    "row",
    "engine",
    "median_ms",
    "lower_quartile_ms",
    "upper_quartile_ms",
    "calls",
    "tasks_per_second",
    "first_call_s",
    "memory_mib",
    "relative_error",
    "relative_error_float64",
    "fastest_peer",
    "times_the_fastest_peer",
    "times_the_floor",
    "revision",
    "measured",
]


def row_lines(row: Row, found: Found, tasks: int) -> list[str]:
    """The section of one row."""
    lines = [f"## {row.name}", "", row.describe() + "."]
    if found.floor:
        lines[-1] += f" Floor: {_ms(found.floor)} ms."
    if found.reference_error is not None:
        lines[-1] += f" The reference is within {found.reference_error:.0e} of plain autograd's."
    lines += ["", *table(HEADER, [_line(found, e, tasks) for e in found.good(*found.cells)]), ""]
    for (a, b), pair in found.pairs.items():
        if "ratio" in pair:
            turns = ", ".join(f"{ratio:.2f}" for ratio in pair["ratios"])
            lines += [f"- {b} / {a}, timed in turns: **{pair['ratio']:.2f}** ({turns})"]
        else:
            lines += [f"- {b} / {a} failed: {pair['failed']}"]
    for engine, cell in found.cells.items():
        if "median" not in cell:
            lines += [f"- {engine} failed: {cell['failed']}"]
    return [*lines, ""]


def check_lines(found: list[Check]) -> list[str]:
    """The table of targets, met or missed."""
    words = {True: "met", False: "**missed**", None: "–"}
    rows = [[c.row, c.what, c.target, c.measured, words[c.met]] for c in found]
    return ["## Targets", "", *table(["row", "what", "target", "measured", ""], rows), ""]


def as_csv(found: dict[str, Found], tasks: dict[str, int]) -> str:
    """One line per row and engine, in plain units."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, row in found.items():
        for engine in row.good(*row.cells):
            cell, peer = row.cells[engine], row.fastest_peer()
            times = [f"{1e3 * cell[k]:.5g}" for k in ("median", "lower", "upper")]
            writer.writerow(
                [
                    name,
                    engine,
                    *times,
                    cell["calls"],
                    f"{tasks[name] / cell['median']:.5g}",
                    f"{cell['first']:.4g}",
                    f"{cell['memory'] / 2**20:.1f}",
                    f"{cell['error']:.3g}",
                    "" if cell["exactness"] is None else f"{cell['exactness']:.3g}",
                    peer or "",
                    f"{row.times_faster(engine, peer):.4g}" if peer else "",
                    f"{cell['median'] / row.floor:.4g}" if row.floor else "",
                    cell["revision"],
                    cell["when"],
                ]
            )
    return text.getvalue()


@style.styled
def draw(found: dict[str, Found], path: Path) -> None:
    """Time and memory of every engine over the fastest peer's, one line per row."""
    rows = [row for row in found.values() if row.fastest_peer()]
    if not rows:
        return
    drawn = style.figure(9.6, 1.2 + 0.42 * len(rows))
    panels = [drawn.add_subplot(1, 2, 1), drawn.add_subplot(1, 2, 2)]
    for axes, what, title in zip(
        panels, ("median", "memory"), ("time of one meta-gradient", "memory"), strict=True
    ):
        _dots(axes, rows, what)
        style.log_scale(axes, "x")
        axes.set_yticks(range(len(rows)), [row.row for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.axvline(1, color=style.INK, lw=0.8, ls=":")
        axes.set_xlabel("over the fastest peer's (left is better)")
        axes.set_title(title)
    handles, names = panels[0].get_legend_handles_labels()
    drawn.legend(handles, names, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    style.save(drawn, path, dpi=130)


def _dots(axes: Axes, rows: list[Found], what: str) -> None:
    """A shape for each of our engines, diamonds for the peers; hollow where it is compiled."""
    for engine, colour in COLOURS.items():
        there = [(k, row) for k, row in enumerate(rows) if row.good(engine)]
        ratios = [_value(row, engine, what) / _value(row, None, what) for _, row in there]
        if there:
            shape = SHAPES.get(engine, "D")
            face = "white" if engine in COMPILED else colour
            lines = [k for k, _ in there]
            axes.plot(ratios, lines, shape, ms=7, mec=colour, mfc=face, mew=1.5, label=engine)


def _value(row: Found, engine: str | None, what: str) -> float:
    """Of the engine, or of the fastest peer."""
    value = float(row.cells[engine or row.fastest_peer() or PEERS[0]][what])
    return max(value, SEEN) if what == "memory" else value


def _line(found: Found, engine: str, tasks: int) -> list[str]:
    cell, peer = found.cells[engine], found.fastest_peer()
    return [
        engine,
        f"{_ms(cell['median'])} ({_ms(cell['lower'])}–{_ms(cell['upper'])})",
        _short(tasks / cell["median"]),
        f"{cell['first']:.2g}",
        f"{cell['memory'] / 2**20:.0f}",
        f"{cell['error']:.1e}",
        "–" if cell["exactness"] is None else f"{cell['exactness']:.0e}",
        f"{found.times_faster(engine, peer):.2f}" if peer else "–",
        f"{cell['median'] / found.floor:.2f}" if found.floor else "–",
    ]


def _ms(seconds: float) -> str:
    return _short(1e3 * seconds)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def order(found: dict[str, Found]) -> dict[str, Found]:
    """In the order of the rows' definition."""
    return {name: found[name] for name in ROWS if name in found}

"""Cost growth: time and memory against inner steps, tasks and parameters, with fitted exponents.

Run: python benchmarks/speed.py --growth        (about eight minutes on two cores)
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import heading, table, write
from speed_cells import Cell, Cells, machine
from speed_process import Job, Process, write_problem
from speed_rows import Row, pictures

from innerloop.models import Conv4, mlp
from innerloop.report.plot import style

PICTURE = Path("docs/images/growth.png")
ENGINES = {"innerloop": style.BLUE, "unrolled": style.VERMILION}
STEPS = (1, 2, 5, 10, 20, 50, 100)
TASKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
DECADES = tuple(k / 2 for k in range(6, 17))
SECONDS = 1.0


class Axis(NamedTuple):
    """What grows: rows by the value of x, and the engines that are measured on them."""

    label: str
    about: str
    rows: dict[float, Row]
    engines: tuple[str, ...]


def axes() -> list[Axis]:
    """The three of them."""
    net = partial(Conv4, 5)
    steps = {
        k: Row(
            f"steps-{k}", "Conv4-64, 5-way 5-shot, 1 task", net, partial(pictures, 1, 5), 0.05, k
        )
        for k in STEPS
    }
    tasks = {
        n: Row(f"tasks-{n}", "Conv4-64, 5-way 1-shot, 1 step", net, partial(pictures, n, 1), 0.4)
        for n in TASKS
    }
    weights = {}
    for decade in DECADES:
        width = round(math.sqrt(10**decade + 35**2) - 35)  # width² + 71 width + 5 weights
        count = width**2 + 71 * width + 5
        weights[count] = Row(
            f"weights-1e{decade:g}",
            f"MLP 64-{width}-{width}-5, 5-way 5-shot, 1 task, 1 step",
            partial(mlp, 64, 5, (width, width)),
            partial(pictures, 1, 5, shape=(1, 8, 8)),
            0.01,
        )
    both = tuple(ENGINES)
    return [
        Axis("inner steps", "Conv4-64 with strides, 28², 5-way 5-shot, 1 task", steps, both),
        Axis("tasks", "the same net, 5-way 1-shot, 1 step", tasks, ("innerloop",)),
        Axis(
            "parameters",
            "MLP with two hidden layers of one width, 64 inputs, 5-way 5-shot, 1 task, 1 step",
            weights,
            ("innerloop",),
        ),
    ]


def exponent(points: dict[float, float]) -> float:
    """The power p of y ~ x^p: least squares in logarithms over the upper half of the points.

    NaN where fewer than two points there are positive.
    """
    upper = sorted(points.items())[len(points) // 2 :]
    there = [(math.log(x), math.log(y)) for x, y in upper if y > 0]
    if len(there) < 2:
        return math.nan
    return statistics.linear_regression(*zip(*there, strict=True)).slope


def run(cells: Cells, options: argparse.Namespace) -> None:
    """Measure all points, write the table and the picture."""
    found: dict[tuple[str, str, str], dict[float, float]] = {}
    measured = axes()
    for axis in measured:
        for x, row in axis.rows.items():
            for engine in axis.engines:
                cell = _point(cells, row, engine, options)
                for what in ("time", "memory"):
                    if what in cell:
                        found.setdefault((axis.label, engine, what), {})[x] = cell[what]
    _publish(found, measured, options)
    _draw(found, measured)


def _point(cells: Cells, row: Row, engine: str, options: argparse.Namespace) -> Cell:
    path = cells.folder / "growth.pt"

    def measure() -> Cell:
        write_problem(row, path, truth=False)
        job = Job(row, engine, path, options.device, options.threads)
        with contextlib.closing(Process(job)) as process:
            process.ask("first")
            times = process.ask("time", SECONDS, 2)
        with contextlib.closing(Process(job)) as process:
            process.ask("first")
            memory = process.ask("memory", SECONDS)
        path.unlink()
        return {"time": statistics.median(times), "memory": memory}

    return cells.made(f"{row.name}.{engine}", row.describe(), measure, again=options.again)


def _publish(
    found: dict[tuple[str, str, str], dict[float, float]],
    measured: list[Axis],
    options: argparse.Namespace,
) -> None:
    lines = heading(
        "How the cost of one meta-gradient grows",
        "python benchmarks/speed.py --growth",
        "Float32, exact MAML; innerloop is the default, unrolled is plain autograd through the "
        "inner loop. Each point in a process of its own; memory is the peak over what is held "
        "between calls. Exponents: least squares in logarithms over the upper half of the points.",
        machine=machine(options.device, options.threads),
    )
    for axis in measured:
        head, rows = [axis.label], [[f"{x:,.0f}"] for x in axis.rows]
        last = ["**exponent**"]
        for engine in axis.engines:
            for what, unit, scale in (("time", "ms", 1e3), ("memory", "MiB", 2.0**-20)):
                points = found.get((axis.label, engine, what), {})
                head.append(f"{engine}, {unit}")
                last.append(f"**{exponent(points):.2f}**")
                for row, x in zip(rows, axis.rows, strict=True):
                    row.append(f"{scale * points[x]:.3g}" if x in points else "–")
        lines += [f"## {axis.label}", "", f"{axis.about}.", "", *table(head, [*rows, last]), ""]
    suffix = "" if options.device == "cpu" else f"-{options.device}"
    write(f"growth{suffix}.md", lines)


@style.styled
def _draw(found: dict[tuple[str, str, str], dict[float, float]], measured: list[Axis]) -> None:
    drawn = style.figure(9.6, 5.2)
    for column, axis in enumerate(measured, 1):
        for line, (what, unit, scale) in enumerate(
            (("time", "time, ms", 1e3), ("memory", "memory, MiB", 2.0**-20))
        ):
            panel = drawn.add_subplot(2, 3, column + 3 * line)
            for engine in axis.engines:
                points = found.get((axis.label, engine, what), {})
                shown = {x: scale * y for x, y in points.items() if y > 0}
                name = f"{engine} ~ x^{exponent(points):.2f}"
                panel.plot(shown.keys(), shown.values(), "o-", color=ENGINES[engine], label=name)
            style.log_scale(panel, "y")
            panel.set_xscale("log")
            low, high = panel.get_ylim()
            panel.set_ylim(low / 1.5, 4 * high)  # a flat line looks flat, with room above
            panel.set_xlabel(axis.label)
            panel.set_title(unit)
            panel.legend(loc="upper left")
    style.save(drawn, PICTURE, dpi=130)

"""How fast innerloop is beside its peers: one exact meta-gradient, every engine in its own process.

Rows are in speed_rows.py, innerloop's engines in speed_engines.py, the peers in speed_peers.py.
Every cell is kept under runs/benchmarks/speed, so a stopped run goes on; the result is made of all
cells there are.

Run: python benchmarks/speed.py --learn2learn UNPACKED_SOURCE    (under 25 minutes on two cores)
     python benchmarks/speed.py --quick                          (fewer cells, fewer calls)
     python benchmarks/speed.py --growth                         (how the cost grows)
The peers come with `pip install -e '.[benchmark]'`; what is missing is left out and said so.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import speed_growth
import torch
from bench import RESULTS, RUNS, heading, write
from speed_cells import FULL, QUICK, Cells, in_turns, machine, measured, problem, rate
from speed_checks import EXACT, Found, checks
from speed_process import ENGINES, Job
from speed_report import as_csv, check_lines, draw, order, row_lines
from speed_rows import ROWS

from innerloop.core.files import write_text

PICTURE = Path("docs/images/speed.png")
ONLY = {
    "fomaml": ("deep",),
    "workers": ("omni1",),
    "vmap-compiled": ("sine",),
    "jax": ("sine",),
    "unrolled": ("sine", "omni1"),
    "vmap": ("sine", "omni1", "omni5", "mini"),
    "traced": tuple(name for name in ROWS if name != "resnet12"),
    "compiled": ("sine", "omni1", "omni5"),
}
"""Engines that are not run on every row: where they answer a question, or can run at all."""
QUICK_ROWS = ("sine", "omni1", "omni5", "mini", "deep")
QUICK_ENGINES = ("innerloop", "traced", "compiled", "learn2learn", "higher", "torchopt", "jax")


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    kind = f"{options.device}-{options.threads}-threads" + ("-quick" if options.quick else "")
    cells = Cells(RUNS / "speed" / kind)
    if options.growth:
        speed_growth.run(cells, options)
        return
    found = {}
    for name in ROWS:
        if name in options.rows:
            measure_row(name, cells, options)
    for name in ROWS:
        row = collect(name, cells)
        if row.cells:
            found[name] = row
    publish(order(found), options)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time, memory and error beside other libraries")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), metavar="ROW")
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), metavar="ENGINE")
    parser.add_argument("--quick", action="store_true", help="fewer cells and calls, under 5 min")
    parser.add_argument("--again", action="store_true", help="measure what is there already")
    parser.add_argument("--growth", action="store_true", help="cost against steps, tasks, weights")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--learn2learn", metavar="PATH", help="its unpacked source distribution")
    options = parser.parse_args()
    options.rows = options.rows or (QUICK_ROWS if options.quick else tuple(ROWS))
    options.engines = options.engines or (QUICK_ENGINES if options.quick else tuple(ENGINES))
    options.pace = QUICK if options.quick else FULL
    return options


def runs(engine: str, row: str) -> bool:
    return row in ONLY.get(engine, (row,))


def measure_row(name: str, cells: Cells, options: argparse.Namespace) -> None:
    """All wanted cells of one row, then the pairs that they are part of."""
    row = ROWS[name]
    path, _ = problem(cells, row, again=False)

    def job(engine: str) -> Job:
        return Job(row, engine, path, options.device, options.threads, options.learn2learn)

    about, again = row.describe(), options.again
    cells.made(f"{name}.rate", about, partial(rate, job("innerloop")), again=again)
    wanted = [e for e in options.engines if runs(e, name)]
    for engine in wanted:
        measure = partial(measured, job(engine), options.pace)
        cells.made(f"{name}.{engine}", about, measure, again=again)
    for a, b in pairs(collect(name, cells)):
        if a in wanted or b in wanted:
            measure = partial(in_turns, job(a), job(b), options.pace)
            cells.made(f"{name}.{a}.{b}", about, measure, again=again)


def pairs(found: Found) -> Iterator[tuple[str, str]]:
    """Who is timed in turns with whom: the ratios that are claimed."""
    peer = found.fastest_peer()
    asked = [(ours, peer) for ours in (*EXACT, "workers") if peer]
    asked += [("compiled", "jax"), ("fomaml", "innerloop"), ("workers", "innerloop")]
    return ((a, b) for a, b in asked if found.good(a) and found.good(b))


def collect(name: str, cells: Cells) -> Found:
    """Everything on disk about a row."""
    about, found = ROWS[name].describe(), Found(name)
    for engine in ENGINES:
        cell = cells.read(f"{name}.{engine}", about)
        if cell:
            found.cells[engine] = cell
    counted, speed = (cells.read(f"{name}.{what}", about) for what in ("problem", "rate"))
    if counted and speed:
        found.floor = counted["operations"] / speed["rate"]
        found.reference_error = counted.get("reference error")
    for a, b in pairs(found):
        cell = cells.read(f"{name}.{a}.{b}", about)
        if cell:
            found.pairs[a, b] = cell
    return found


def publish(found: dict[str, Found], options: argparse.Namespace) -> None:
    """Markdown, CSV and picture; those of a quick run stay beside its cells."""
    tasks = {name: len(ROWS[name].tasks().support.x) for name in found}
    suffix = "" if options.device == "cpu" else f"-{options.device}"
    revisions = sorted({c["revision"] for row in found.values() for c in row.cells.values()})
    facts = (
        f"Revision {', '.join(revisions)}; float32, exact MAML, batch statistics.",
        "Time and memory of one meta-gradient over all tasks, each in a process of its own; memory "
        "is the peak over what is held between calls. Errors are relative to innerloop's unrolled "
        "gradient in float64: of the engine in float32, and of the same engine in float64 on the "
        "first task, which shows whether it is exact. Speed over the fastest of learn2learn, "
        "higher and torchopt: more is better. Floor: the operations that the exact algorithm needs "
        "(benchmarks/speed_floor.py) over the best float32 matrix rate in the same run, with the "
        "same threads.",
    )
    lines = heading(
        "One meta-gradient beside other libraries",
        "python benchmarks/speed.py",
        *facts,
        machine=machine(options.device, options.threads),
    )
    for name, row in found.items():
        lines += row_lines(ROWS[name], row, tasks[name])
    lines += check_lines(checks(found, options.device))
    if options.quick:
        print("\n".join(lines))
        return
    write(f"speed{suffix}.md", lines)
    write_text(RESULTS / f"speed{suffix}.csv", as_csv(found, tasks))
    draw(found, PICTURE.with_stem(f"speed{suffix}"))


if __name__ == "__main__":
    main()

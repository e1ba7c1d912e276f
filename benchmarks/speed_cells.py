"""Measurements kept on disk, one JSON file each, so that a stopped run goes on where it was."""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from speed_process import Job, Process, write_problem
from speed_rows import Row, Unavailable

from innerloop.core.files import write_text

Cell = dict[str, Any]
COMPILING = 300.0
"""Seconds that a first call may take."""


@dataclass(frozen=True)
class Pace:
    """How long one engine is timed, and how often two of them take turns, in seconds and rounds."""

    seconds: float
    turn: float
    rounds: int


FULL, QUICK = Pace(4.0, 1.5, 3), Pace(1.0, 0.5, 1)
SLOW = 3.0
"""Seconds of a call from which on fewer calls have to do."""


class Cells:
    """The files of one folder; a name belongs to one description of the work."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.revision = _revision()

    def read(self, name: str, about: str) -> Cell | None:
        """What was measured for this work, or None."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if found["about"] == about else None

    def made(self, name: str, about: str, measure: Callable[[], Cell], *, again: bool) -> Cell:
        """The cell, measured now if there is none or `again`. What is unavailable is not kept."""
        kept = None if again else self.read(name, about)
        if kept is not None:
            print(f"{name}: kept, {_age(kept['when'])} old, of {kept['revision']}", flush=True)
            return kept
        print(f"{name}: ", end="", flush=True)
        try:
            found = measure()
        except Unavailable as reason:
            print(f"not run: {reason}", flush=True)
            return {"unavailable": str(reason)}
        except (RuntimeError, TimeoutError) as error:
            found = {"failed": str(error)}
        found |= {"about": about, "when": _now().isoformat(), "revision": self.revision}
        write_text(self.folder / f"{name}.json", json.dumps(found, indent=1) + "\n")
        print(_told(found), flush=True)
        return found


def problem(cells: Cells, row: Row, *, again: bool) -> tuple[Path, Cell]:
    """The row's file of weights, tasks and reference, and what was counted on the way."""
    path = cells.folder / f"{row.name}.pt"
    found = cells.made(
        f"{row.name}.problem",
        row.describe(),
        lambda: write_problem(row, path),
        again=again or not path.exists(),
    )
    return path, found


def measured(job: Job, pace: Pace) -> Cell:
    """Time in one process, memory in another."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(job.cache)  # so that the first call compiles
    with contextlib.closing(Process(job)) as process:
        found: Cell = process.ask("first", limit=COMPILING)
        times = process.ask("time", 0.0, 2)
        if max(times) < SLOW:
            times = process.ask("time", pace.seconds, 3)
    with contextlib.closing(Process(job)) as process:
        process.ask("first", limit=COMPILING)
        memory = process.ask("memory", pace.turn)
        exactness = process.ask("exactness") if _has_exactness(job) else None
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    spread = {"lower": low, "median": middle, "upper": high, "calls": len(times)}
    return found | spread | {"memory": memory, "exactness": exactness}


def _has_exactness(job: Job) -> bool:
    """Not for two workers, who share no single task; compiled where compiling takes seconds."""
    return job.engine != "workers" and ("compiled" not in job.engine or job.row.name == "sine")


def in_turns(a: Job, b: Job, pace: Pace) -> Cell:
    """Two engines in two processes, A B A B: medians of each turn, and the median ratio b / a."""
    turns: dict[str, list[float]] = {a.engine: [], b.engine: []}
    with contextlib.ExitStack() as stack:
        running = {
            job.engine: stack.enter_context(contextlib.closing(Process(job))) for job in (a, b)
        }
        slow = False
        for process in running.values():
            process.ask("first", limit=COMPILING)
            slow |= process.ask("time", 0.0, 1)[0] > SLOW
        for _ in range(min(pace.rounds, 2) if slow else pace.rounds):
            for name, process in running.items():
                taken = process.ask("time", *((0.0, 1) if slow else (pace.turn, 2)))
                turns[name].append(statistics.median(taken))
    ratios = [y / x for x, y in zip(turns[a.engine], turns[b.engine], strict=True)]
    return {"turns": turns, "ratios": ratios, "ratio": statistics.median(ratios)}


def rate(job: Job) -> Cell:
    """The matrix rate, in a process with the same threads."""
    with contextlib.closing(Process(job)) as process:
        return {"rate": process.ask("rate")}


def _told(cell: Cell) -> str:
    if "failed" in cell:
        return f"failed: {cell['failed']}"
    if "median" in cell:
        return f"{1e3 * cell['median']:.2f} ms, +{cell['memory'] / 2**20:.0f} MiB"
    if "ratio" in cell:
        return f"{cell['ratio']:.2f}"
    return f"{cell['rate'] / 1e9:.0f} GFLOP/s" if "rate" in cell else "done"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _age(when: str) -> str:
    hours = (_now() - datetime.datetime.fromisoformat(when)).total_seconds() / 3600
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.0f} h"


def _revision() -> str:
    """The commit, with a plus where files differ from it."""
    words = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no git"


def machine(device: str, threads: int) -> str:
    """The device in words, as results name it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU with {threads} thread{'s' if threads > 1 else ''}"

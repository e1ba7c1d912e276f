"""What a training run shows: one live block on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .console import say, visible

QUIET_SECONDS = 15.0
"""Without a terminal, the least time between two lines."""


class Progress:
    """An observer of a run: step, tasks per second, loss, score before and after, time left."""

    def __init__(self, console: Console, name: str, folder: Path, *, adapts: bool = True) -> None:
        """`adapts`: whether there are inner steps, so that a score before them means something."""
        self._console, self._name, self._folder = console, visible(name), folder
        self._adapts = adapts
        self._start: Mapping[str, Any] = {}
        self._train: Mapping[str, Any] = {}
        self._pace: Mapping[str, Any] = {}
        self._validating = ""
        self._validation: Mapping[str, Any] = {}
        self._said = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, record: Mapping[str, Any]) -> None:
        event = record["event"]
        if event == "start":
            self._start = record
            self._print(
                f"{self._name}: step {record['step']} of {record['iterations']}, {self._folder}"
            )
        elif event == "warning":
            self._print(f"warning: {record['text']}", "yellow")
        elif event == "progress":
            self._pace, self._validating = record, ""
            self._show()
        elif event == "validating":
            self._validating = f"validating, {record['done']} of {record['tasks']} tasks"
            if self._pace:
                self._show()
        elif event == "validation":
            self._validation, self._validating = record, ""
            self._print(f"step {record['step']:>7}  validation {_scores(record, self._adapts)}")
        elif event == "train":
            self._train = record

    def _show(self) -> None:
        if self._live is not None:
            self._live.update(self._block())
        elif time.monotonic() - self._said >= QUIET_SECONDS:
            self._print(f"step {self._pace['step']:>7}  {self._line()}")

    def _line(self) -> str:
        record = self._train
        if not record:  # it comes after `log_every` steps
            pace = f"{self._pace['step_seconds']:.2g} s a step"
            return f"{pace}  {_clock(self._left())} left  {self._validating}".rstrip()
        parts = [
            f"loss {record['loss']:.4f}",
            _scores(record, self._adapts),
            f"{record['tasks_per_second']:.0f} tasks/s",
            f"{_clock(self._left())} left",
        ]
        if record.get("converged", 1.0) < 1.0:
            parts.append(f"{1 - record['converged']:.0%} of inner solves stopped short")
        parts.append(self._validating)
        return "  ".join(p for p in parts if p)

    def _block(self) -> Group:
        grid = Table.grid(padding=(0, 2))
        step, last = self._pace["step"], self._start["iterations"]
        bar = ProgressBar(total=1.0, completed=self._fraction(), width=40)
        grid.add_row(Text(self._name, "bold"), bar, f"{step}/{last}")
        rows: list[Table | Text] = [grid, Text(self._line())]
        if self._validation:
            best = self._validation["best_step"]
            scores = _scores(self._validation, self._adapts)
            rows.append(Text(f"validation {scores}  best at step {best}", "dim"))
        return Group(*rows)

    def _fraction(self) -> float:
        done = self._pace["step"] / max(1, self._start["iterations"])
        if self._start.get("minutes"):
            done = max(done, 1 - self._pace["left"] / (60 * self._start["minutes"]))
        return min(1.0, done)

    def _left(self) -> float:
        return float(self._pace["left"])

    def _print(self, text: str, style: str = "") -> None:
        self._said = time.monotonic()
        say(self._console, text, style)


def _scores(record: Mapping[str, Any], adapts: bool) -> str:
    """`accuracy 20.1 % -> 93.4 %`, or the same for mse."""
    if "accuracy" in record:
        before = record.get("accuracy_before") if adapts else None
        shown = f"{100 * record['accuracy']:.1f} %"
        return f"accuracy {shown if before is None else f'{100 * before:.1f} -> {shown}'}"
    after = record.get("mse", record.get("loss"))
    before = record.get("mse_before")
    return "" if before is None or after is None else f"mse {before:.3f} -> {after:.3f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

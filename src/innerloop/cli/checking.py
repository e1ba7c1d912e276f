"""`innerloop check-gradient`: every estimator against the dense reference, on a user's model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from ..config import load, sources
from ..core import streams
from ..doctor import ESTIMATORS, GradientRow, check_gradient
from ..method import Method
from .commands import CheckGradient
from .console import say, show_table, terminal
from .overrides import Overrides
from .training import resolve


def check(asked: CheckGradient, overrides: Overrides) -> None:
    """Build the run, draw tasks, compare, and print a table."""
    console = terminal()
    unknown = [e for e in asked.estimators if e not in ESTIMATORS]
    if unknown or asked.tasks < 1:
        raise ValueError(
            f"unknown estimator {', '.join(unknown)}; known: {', '.join(ESTIMATORS)}"
            if unknown
            else f"--tasks must be at least 1, got {asked.tasks}"
        )
    base, folder = resolve(asked.recipe, None, resume=True)
    config = base.override(overrides.pairs)
    splits = sources.build(config.data, config.test, config.device(), config.files)
    spec = splits.train.spec
    if Path(asked.recipe).is_dir() and config.model == base.model:
        config, method, _ = load(folder, settings=overrides.pairs)
    else:
        method = config.build_method(spec, spec.outputs)
    if not isinstance(method, Method):
        raise ValueError(f"{config.method.kind} has no meta-gradient; use another method")
    drawn = splits.train.sample(streams.generator(config.seed, "check-gradient"), asked.tasks)
    chosen = [ESTIMATORS[e]() for e in asked.estimators] or None
    count = sum(p.numel() for p in method.parameters() if p.requires_grad)
    say(
        console,
        f"{method.name} on {config.name}: {count} meta-parameters, {asked.tasks} tasks, "
        f"{method.steps} inner steps; reference: autograd through the "
        "whole inner loop in float64",
    )
    show_table(console, gradient_table(check_gradient(method, drawn, chosen)))


def gradient_table(rows: Sequence[GradientRow]) -> Table:
    """One row per estimator; a refusal takes the place of the numbers."""
    table = Table(box=None, pad_edge=False)
    table.add_column("estimator")
    for heading in ("error", "cosine", "error as run", "time", "peak memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    notes = []
    for row in rows:
        if row.refused:
            table.add_row(row.estimator, "refused")
            notes.append(f"{row.estimator}: {row.refused}")
            continue
        table.add_row(
            row.estimator,
            _number(row.error, "{:.1e}"),
            _number(row.cosine, "{:.6f}"),
            _number(row.native_error, "{:.1e}"),
            _number(row.seconds, "{:.4f} s"),
            _number(None if row.peak_bytes is None else row.peak_bytes / 2**20, "{:.1f} MiB"),
        )
    if notes:
        table.caption = "\n".join(notes)
        table.caption_justify = "left"
    return table


def _number(value: float | None, shape: str) -> str:
    return "" if value is None else shape.format(value)

"""Numbers against time: learning curves, the score against inner steps, its spread over tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ...evaluate.result import EvaluationResult, in_percent, title_of
from .style import BLUE, CYCLE, DASHES, HALF, INK, MUTED, ORANGE, SKY, figure, log_scale, styled

Record = Mapping[str, Any]

LOOK = {
    "mse_before": (ORANGE, "training, before"),
    "mse": (SKY, "training, squared error"),
    "loss": (BLUE, "training, after adaptation"),
    "accuracy_before": (ORANGE, "training, before"),
    "accuracy": (BLUE, "training, after adaptation"),
    "validation_mse_before": (MUTED, "validation, before"),
    "validation_mse": (INK, "validation, after adaptation"),
    "validation_loss": (INK, "validation"),
    "validation_accuracy_before": (MUTED, "validation, before"),
    "validation_accuracy": (INK, "validation, after adaptation"),
}
"""Colour and label of every curve that is drawn, in the order of drawing."""

SMOOTHED = 60
"""Points that a smoothed training curve resolves."""


@styled
def learning_curves(records: Sequence[Record]) -> Figure:
    """Training and validation curves of a run, from its metric records (one per logged step).

    Draws what is there of `loss`, `accuracy`, `accuracy_before`, `mse`, `mse_before`, each also
    with the prefix `validation_` or in a record whose `event` is "validation". Thin lines are the
    values as logged, thick ones a running median.

    Raises: ValueError if no record has a `step` and a number to draw.
    """
    records = [_flattened(record) for record in records]
    panels = [
        ("Loss on the query sets", [name for name in LOOK if "accuracy" not in name], "loss"),
        ("Accuracy on the query sets", [name for name in LOOK if "accuracy" in name], "accuracy"),
    ]
    present = [
        (title, [name for name in names if _series(records, name)[0].size], metric)
        for title, names, metric in panels
    ]
    present = [entry for entry in present if entry[1]]
    if not present:
        raise ValueError(
            "No learning curve to draw: expected records with 'step' and 'loss' or 'accuracy', "
            f"got {len(records)} records."
        )
    drawn = figure(HALF * len(present), 3.2)
    for i, (title, names, metric) in enumerate(present):
        axes = drawn.add_subplot(1, len(present), i + 1)
        for name in names:
            _draw_series(axes, name, *_series(records, name))
        axes.set_title(title)
        axes.set_xlabel("outer step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _scale(axes, [_series(records, name)[1] for name in names], metric)
        axes.legend()
    return drawn


@styled
def score_by_step(
    results: Mapping[str, EvaluationResult], *, trained_steps: int | None = None
) -> Figure:
    """Mean score with its 95 % band after each inner step, one line per result.

    `trained_steps` marks the number of inner steps that training used.
    """
    drawn = figure(HALF, 3.3)
    axes = drawn.add_subplot()
    longest = max(result.steps for result in results.values())
    metric = next(iter(results.values())).metric
    for i, (name, result) in enumerate(results.items()):
        colour, dash = CYCLE[i % len(CYCLE)], DASHES[i % len(DASHES)]
        mean, half = result.mean, np.nan_to_num(result.interval)
        if result.steps == 0:  # a learner without steps is a level, not a curve
            axes.axhline(mean[0], color=colour, linestyle=dash, label=name)
            axes.axhspan(mean[0] - half[0], mean[0] + half[0], color=colour, alpha=0.15, lw=0)
            continue
        steps = np.arange(result.steps + 1)
        axes.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.18, lw=0)
        marker = "o" if result.steps <= 30 else ""
        axes.plot(
            steps, mean, color=colour, linestyle=dash, marker=marker, markersize=3.5, label=name
        )
    if trained_steps is not None and 0 < trained_steps <= longest:
        axes.axvline(trained_steps, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)
        axes.annotate(
            "steps in training",
            (trained_steps, 0.03),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=8,
            color=MUTED,
        )
    axes.set_xlabel("inner steps")
    axes.set_ylabel(title_of(metric))
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.margins(x=0.03)
    _scale(axes, [result.mean for result in results.values()], metric)
    axes.legend(loc="best")
    return drawn


@styled
def score_histogram(result: EvaluationResult) -> Figure:
    """How the score is spread over tasks, before adaptation and after the last inner step."""
    drawn = figure(HALF, 3.3)
    axes = drawn.add_subplot()
    rows = [(result.steps, BLUE, "after adaptation")]
    if result.steps:
        rows.insert(0, (0, ORANGE, "before adaptation"))
    rows = [row for row in rows if np.isfinite(result.values[row[0]]).any()]
    if not rows:
        axes.set_title("no score is finite")
        return drawn
    bins = _bins(result, np.stack([result.values[step] for step, _, _ in rows]))
    for step, colour, name in rows:
        values = result.values[step]
        values = values[np.isfinite(values)]
        axes.hist(
            values, bins=bins, color=colour, alpha=0.55, edgecolor="white", lw=0.5, label=name
        )
        axes.axvline(float(values.mean()), color=colour, linewidth=1.6)
    if in_percent(result.metric):
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    elif bins[0] > 0 and not result.larger_is_better:
        log_scale(axes, "x")
    axes.set_xlabel(f"{title_of(result.metric)} of a task (line: mean)")
    axes.set_ylabel("tasks")
    axes.grid(False, axis="x")
    axes.legend(loc="best")
    return drawn


def _flattened(record: Record) -> Record:
    """Numbers of a validation record under names of their own."""
    if record.get("event") != "validation":
        return record
    return {k if k == "step" else f"validation_{k}": v for k, v in record.items()}


def _series(records: Sequence[Record], name: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [
        (float(record["step"]), float(record[name]))
        for record in records
        if isinstance(record.get(name), int | float) and isinstance(record.get("step"), int | float)
    ]
    kept = np.array([pair for pair in pairs if math.isfinite(pair[1])], dtype=float).reshape(-1, 2)
    return kept[:, 0], kept[:, 1]


def _draw_series(axes: Axes, name: str, x: np.ndarray, y: np.ndarray) -> None:
    colour, label = LOOK[name]
    if name.startswith("validation"):
        marker = "o" if x.size <= 40 else ""
        axes.plot(x, y, color=colour, lw=1.1, marker=marker, markersize=3, zorder=1.9, label=label)
        return
    if x.size <= SMOOTHED:
        axes.plot(x, y, color=colour, linewidth=1.5, label=label)
        return
    axes.plot(x, y, color=colour, linewidth=0.4, alpha=0.3)
    width = max(3, x.size // SMOOTHED)
    centres = range(0, x.size, max(1, width // 2))
    smooth = [(x[i], np.median(y[max(0, i - width) : i + width + 1])) for i in centres]
    axes.plot(*np.array(smooth).T, color=colour, linewidth=1.7, label=label)


def _scale(axes: Axes, series: Sequence[np.ndarray], metric: str) -> None:
    values = np.concatenate(series)
    values = values[np.isfinite(values)]
    if in_percent(metric):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylim(top=min(1.02, axes.get_ylim()[1]))
    elif values.size and values.min() > 0 and values.max() > 8 * values.min():
        log_scale(axes, "y")


def _bins(result: EvaluationResult, values: np.ndarray) -> list[float]:
    """Edges: one bar per level of an accuracy, even in the logarithm for errors, even otherwise."""
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if in_percent(result.metric):
        levels = np.unique(np.round(values, 9))
        gap = float(np.diff(levels).min()) if levels.size > 1 else 0.05
        # An accuracy over n queries is a multiple of 1/n: bars between would be empty.
        width = gap * max(1, math.ceil((1 / 30) / gap))
        count = math.ceil((1.0 - float(levels.min())) / width - 1e-6) + 1
        return [1.0 + width / 2 - width * i for i in range(count, -1, -1)]
    if not result.larger_is_better and low >= 0:
        low, high = max(low, 1e-12), max(high, 1e-11)
        return [float(edge) for edge in np.geomspace(low, high * 1.001, 31)]
    return [float(edge) for edge in np.linspace(low, high if high > low else low + 1, 31)]

"""Paired comparison of results on the same tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from .result import EvaluationResult, half_width

Verdict = Literal[
    "first", "second", "no difference shown", "first diverged", "second diverged", "both diverged"
]


_DIVERGED: dict[tuple[bool, bool], Verdict] = {
    (True, False): "first diverged",
    (False, True): "second diverged",
    (True, True): "both diverged",
}


@dataclass(frozen=True)
class Comparison:
    """`first` against `second` on the same tasks.

    `difference` is the mean over tasks of (score of first - score of second), `interval` the
    half-width of its 95 % interval; `wins`, `ties`, `losses` count the tasks on which `first` is
    better, equal, worse. `better` names the better one only if the interval leaves out zero.

    A score that is not finite is worse than any that is. Where there is one, the difference is nan
    and `better` says which of the two diverged, on however few tasks.
    """

    first: str
    second: str
    difference: float
    interval: float
    wins: int
    ties: int
    losses: int
    better: Verdict


def compare(
    results: Mapping[str, EvaluationResult],
    *,
    step: int | None = None,
    reference: str | None = None,
) -> list[Comparison]:
    """All pairs of `results`, or each of them against `reference`, task by task.

    Compares the scores after `step` inner steps; None takes each result's last. A task that is hard
    is hard for both, so the difference has a far narrower interval than either mean.

    Raises: ValueError if fewer than two results are given, the tasks are not the same (it names
    what differs), or `step` was not evaluated.
    """
    if len(results) < 2:
        raise ValueError(f"A comparison needs at least two results, got {len(results)}.")
    if reference is not None and reference not in results:
        raise ValueError(f"reference must be one of {list(results)}, got {reference!r}.")
    names = list(results)
    for name in names[1:]:
        _check_same_tasks(names[0], results[names[0]], name, results[name])
    _check_step(results, step)
    if reference is None:
        pairs = list(combinations(names, 2))
    else:
        pairs = [(name, reference) for name in names if name != reference]
    return [_pair(a, results[a], b, results[b], -1 if step is None else step) for a, b in pairs]


def _pair(
    first: str, a: EvaluationResult, second: str, b: EvaluationResult, step: int
) -> Comparison:
    ranks = [_ranked(result, step) for result in (a, b)]
    wins, losses = int((ranks[0] > ranks[1]).sum()), int((ranks[0] < ranks[1]).sum())
    mean = half = math.nan
    better = _DIVERGED.get((a.diverged(step) > 0, b.diverged(step) > 0), "no difference shown")
    if better == "no difference shown":
        difference = a.values[step] - b.values[step]
        mean, half = float(difference.mean()), half_width(difference)
        if abs(mean) > half:
            better = "first" if (mean > 0) == a.larger_is_better else "second"
    return Comparison(
        first=first,
        second=second,
        difference=mean,
        interval=half,
        wins=wins,
        ties=a.tasks - wins - losses,
        losses=losses,
        better=better,
    )


def _ranked(result: EvaluationResult, step: int) -> np.ndarray:
    """The scores so that more is better, and what is not finite is worst."""
    scores = result.values[step] if result.larger_is_better else -result.values[step]
    return np.where(np.isfinite(scores), scores, -math.inf)


def _check_same_tasks(first: str, a: EvaluationResult, second: str, b: EvaluationResult) -> None:
    differing = [
        f"{name} ({getattr(a, name)!r} and {getattr(b, name)!r})"
        for name in ("metric", "larger_is_better", "tasks", "seed", "stream")
        if getattr(a, name) != getattr(b, name)
    ]
    differing += [
        f"source {key} ({a.source.get(key)!r} and {b.source.get(key)!r})"
        for key in sorted(a.source.keys() | b.source.keys())
        if a.source.get(key) != b.source.get(key)
    ]
    if not differing and a.digest != b.digest:
        differing = ["the tasks' data (same settings, other files or another version of them)"]
    if differing:
        raise ValueError(
            f"{first!r} and {second!r} were not evaluated on the same tasks; they differ in "
            f"{'; '.join(differing)}. Evaluate both again with the same source, number of tasks "
            "and seed."
        )


def _check_step(results: Mapping[str, EvaluationResult], step: int | None) -> None:
    if step is None:
        return
    for name, result in results.items():
        if not 0 <= step <= result.steps:
            raise ValueError(
                f"step must be between 0 and {result.steps} for {name!r}, got {step}. "
                f"Evaluate it with --steps {max(step, 0)}."
            )

"""`innerloop demo`: the main job on glyphs, against two baselines, with a report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from ..config import RunConfig, load, stored, task_spec
from ..config.launch import CONFIG
from ..data.source import Splits
from ..evaluate import EvaluationResult, compare
from ..recipes import recipe
from ..train.baseline import Trainable
from .scoring import Trained, facts, pair_table, report, scored
from .training import train_run

MINUTES = {"maml": 2.0, "pretrained": 0.6}
RATES = (0.03, 0.1, 0.3)
"""Inner rates that a baseline may choose from, on validation tasks."""
MOST_STEPS = 10
TUNING_TASKS = 60
LABELS = {"pretrained": "pre-trained, fine-tuned", "scratch": "from scratch"}


def demo_command(run_dir: Path, settings: Sequence[tuple[str, str]]) -> None:
    """Train, score the three on the same unseen scripts, and write the report."""
    console = Console()
    trained(console, "maml", run_dir, settings)
    trained(console, "pretrained", run_dir / "pretrained", settings)
    run = Trained(run_dir, (), "best")
    result = run.score(console, None, None, None)
    others = {}
    for kind, label in LABELS.items():
        others[label] = baseline(console, kind, run_dir, settings, run.splits, result)
    show(console, run, result, others)


def trained(
    console: Console, kind: str, run_dir: Path, settings: Sequence[tuple[str, str]]
) -> None:
    """Train a run, or complete one that an earlier demo has begun."""
    # Joint training makes one batch of all its tasks, which workers cannot share.
    workers = min(2, os.cpu_count() or 1) if kind == "maml" else 1
    ours = [("train.minutes", str(MINUTES[kind])), ("train.workers", str(workers))]
    config = recipe(f"glyphs-5w1s/{kind}").override([*ours, *settings])
    begun = (run_dir / CONFIG).exists()
    train_run(console, stored(run_dir) if begun else config, run_dir, resume=begun, then=None)


def baseline(
    console: Console,
    kind: str,
    run_dir: Path,
    settings: Sequence[tuple[str, str]],
    splits: Splits,
    reference: EvaluationResult,
) -> EvaluationResult:
    """A baseline on the tasks of `reference`, at the rate and steps that are best on validation."""
    best: tuple[float, int, Trainable] | None = None
    for lr in RATES:
        method = at_rate(kind, run_dir, settings, lr)
        result = scored(
            console, f"{LABELS[kind]}, rate {lr:g}", method, splits,
            tasks=TUNING_TASKS, steps=MOST_STEPS, stream="validation",
        )  # fmt: skip
        means = np.nan_to_num(result.mean, nan=-1.0)
        if best is None or means.max() > best[0]:
            best = (float(means.max()), max(1, int(means.argmax())), method)
    assert best is not None
    _, steps, method = best
    return scored(
        console, LABELS[kind], method, splits,
        tasks=reference.tasks, steps=steps, seed=reference.seed,
    )  # fmt: skip


def at_rate(kind: str, run_dir: Path, settings: Sequence[tuple[str, str]], lr: float) -> Trainable:
    """The baseline with this inner rate: pre-trained weights, or the initial ones."""
    rate = ("method.lr", str(lr))
    if kind == "pretrained":
        return load(run_dir / kind, settings=[rate])[1]
    config: RunConfig = recipe(f"glyphs-5w1s/{kind}").override([*settings, rate])
    return config.build_method(*task_spec(run_dir))


def show(
    console: Console, run: Trained, result: EvaluationResult, others: dict[str, EvaluationResult]
) -> None:
    """Print the table, write the numbers and the report."""
    run_dir = run.run_dir
    results = {"MAML": result, **others}
    path = report(run, result, others, run_dir / "report.html")
    for name, one in results.items():
        one.to_json(run_dir / f"evaluation-{name.split(',')[0].replace(' ', '-').lower()}.json")
    console.print(f"\n{facts(result)}, {result.tasks} tasks", soft_wrap=True)
    console.print("5-way 1-shot accuracy on scripts that were never trained on, ± 95 %:")
    for name, one in results.items():
        console.print(f"  {name:<24} {one.text()}  after {one.steps} steps", highlight=False)
    console.print(pair_table(compare(results)[: len(others)], result))
    console.print(f"report: {path}", soft_wrap=True)

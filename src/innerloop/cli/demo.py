"""`innerloop demo`: the main job on glyphs, against two baselines, with a report."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from rich.console import Console

from ..config import RunConfig, load, stored, task_spec
from ..config.launch import CONFIG
from ..data.source import Splits
from ..evaluate import EvaluationResult, compare
from ..recipes import recipe
from ..train.baseline import Trainable
from .console import say, terminal
from .overrides import Overrides
from .scoring import Trained, facts, pair_line, report, scored
from .training import train_run

MINUTES = {"maml": 2.0, "pretrained": 0.6}
RATES = (0.03, 0.1, 0.3)
"""Inner rates that a baseline may choose from, on validation tasks."""
MOST_STEPS = 10
TUNING_TASKS = 60
LABELS = {"pretrained": "pre-trained, fine-tuned", "scratch": "from scratch"}


def demo(run_dir: Path, overrides: Overrides) -> None:
    """Train, score the three on the same unseen scripts, and write the report."""
    console = terminal()
    folders = {"maml": run_dir, "pretrained": run_dir / "pretrained"}
    for kind, folder in folders.items():
        check_ours(kind, folder)
    for kind, folder in folders.items():
        trained(console, kind, folder, overrides)
    run = Trained(run_dir, Overrides(), "best")
    result = run.score(console, None, None, None)
    others = {}
    for kind, label in LABELS.items():
        others[label] = baseline(console, kind, run_dir, overrides, run.splits, result)
    show(console, run, result, others)


def check_ours(kind: str, folder: Path) -> None:
    """Refuse, before anything is trained, a folder with a run that is no demo's.

    Raises ValueError for a run of anything else, or for files that are no run.
    """
    advice = "choose a folder that is new, or that of an earlier demo: innerloop demo --run DIR"
    name = f"glyphs-5w1s/{kind}"
    if (folder / CONFIG).exists():
        found = stored(folder).name
        if found != name:
            raise ValueError(f"{folder} holds a run of {found}, and the demo is {name}; {advice}")
    elif folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no run; {advice}")


def trained(console: Console, kind: str, run_dir: Path, overrides: Overrides) -> None:
    """Train a run, or complete one that an earlier demo has begun."""
    # Joint training makes one batch of all its tasks, which workers cannot share.
    workers = min(2, os.cpu_count() or 1) if kind == "maml" else 1
    ours = [("train.minutes", str(MINUTES[kind])), ("train.workers", str(workers))]
    config = recipe(f"glyphs-5w1s/{kind}").override([*ours, *overrides.pairs])
    begun = (run_dir / CONFIG).exists()
    train_run(console, stored(run_dir) if begun else config, run_dir, resume=begun, then=None)


def baseline(
    console: Console,
    kind: str,
    run_dir: Path,
    overrides: Overrides,
    splits: Splits,
    reference: EvaluationResult,
) -> EvaluationResult:
    """A baseline on the tasks of `reference`, at the rate and steps that are best on validation."""
    best: tuple[float, int, Trainable] | None = None
    for lr in RATES:
        method = at_rate(kind, run_dir, overrides, lr)
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


def at_rate(kind: str, run_dir: Path, overrides: Overrides, lr: float) -> Trainable:
    """The baseline with this inner rate: pre-trained weights, or the initial ones."""
    rate = ("method.lr", str(lr))
    if kind == "pretrained":
        return load(run_dir / kind, settings=[rate])[1]
    config: RunConfig = recipe(f"glyphs-5w1s/{kind}").override([*overrides.pairs, rate])
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
    say(console, f"\n{facts(result)}, {result.tasks} tasks")
    say(console, "5-way 1-shot accuracy on scripts that were never trained on, ± 95 %:")
    for name, one in results.items():
        say(console, f"  {name:<24} {one.text()}  after {one.steps} steps")
    for pair in compare(results)[: len(others)]:
        say(console, pair_line(pair, result))
    say(console, f"report: {path}")

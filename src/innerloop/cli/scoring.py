"""`innerloop evaluate`, `compare` and `report`: from runs on disk to scores."""

from __future__ import annotations

import json as json_format
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn
from rich.table import Table

from ..config import RunConfig, load, load_best, plain, sources
from ..data.source import Splits
from ..evaluate import (
    Comparison,
    Ensemble,
    Evaluable,
    EvaluationResult,
    compare,
    evaluate,
)
from ..method import Method
from ..report import write_report
from ..train.baseline import Trainable
from ..train.log import read_metrics

Settings = Sequence[tuple[str, str]]
SHOWN_STEPS = (0, 1, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500, 1000)


class Trained:
    """A run brought back: its configuration, method and test tasks.

    With `ensemble` the method is the ensemble of that many best validations.
    """

    def __init__(
        self,
        run_dir: Path,
        settings: Settings,
        weights: str,
        device: str | None = None,
        ensemble: int | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.config: RunConfig
        self.method: Trainable | Ensemble
        if ensemble is None:
            self.config, self.method, self.step = load(
                run_dir, weights=weights, settings=settings, device=device
            )
        else:
            self.config, members, steps = load_best(
                run_dir, ensemble, settings=settings, device=device
            )
            self.method, self.step = Ensemble(members), ", ".join(steps)
        self.splits: Splits = sources.build(
            self.config.data, self.config.test, self.config.device()
        )

    def score(
        self, console: Console, tasks: int | None, steps: int | None, seed: int | None
    ) -> EvaluationResult:
        """Evaluate with a progress bar; what is None is as the run's configuration says."""
        defaults = self.config.evaluate
        return scored(
            console,
            self.run_dir.name,
            self.method,
            self.splits,
            tasks=defaults.tasks if tasks is None else tasks,
            steps=defaults.steps if steps is None else steps,
            seed=defaults.seed if seed is None else seed,
        )


def scored(
    console: Console,
    name: str,
    method: Evaluable,
    splits: Splits,
    *,
    tasks: int,
    steps: int | None,
    seed: int = 0,
    stream: str = "test",
) -> EvaluationResult:
    """`evaluate` with a progress bar that leaves nothing behind."""
    source = splits.test if stream == "test" else splits.validation
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        bar = progress.add_task(f"{name}: {tasks} tasks", total=tasks)
        return evaluate(
            method,
            source,
            tasks,
            steps=steps,
            seed=seed,
            stream=stream,
            progress=lambda done, _: progress.update(bar, completed=done),
        )


def evaluate_command(
    run_dir: Path,
    settings: Settings,
    tasks: int | None,
    steps: int | None,
    seed: int | None,
    weights: str,
    ensemble: int | None,
    json: Path | None,
    device: str | None,
) -> None:
    """Evaluate one run, print the scores, and write them."""
    console = Console()
    if ensemble is not None and (ensemble < 1 or weights != "best"):
        raise ValueError(
            "an ensemble takes the best validations, at least one: --ensemble N without --weights, "
            f"got --ensemble {ensemble} --weights {weights}"
        )
    run = Trained(run_dir, settings, weights, device, ensemble)
    result = run.score(console, tasks, steps, seed)
    path = result.to_json(json or run_dir / "evaluation.json")
    console.print(f"{run.config.name}, weights of step {run.step}: {facts(result)}", soft_wrap=True)
    console.print(step_table({"": result}))
    console.print(
        f"{result.text()} after {result.steps} inner steps; {result.tasks} tasks, "
        f"{result.tasks_per_second:.0f} tasks/s; written to {path}",
        soft_wrap=True,
    )


def compare_command(
    run_dirs: Sequence[Path],
    settings: Settings,
    tasks: int | None,
    steps: int | None,
    seed: int,
    weights: str,
    json: Path | None,
    device: str | None,
) -> None:
    """Evaluate several runs on the same tasks and show the paired differences."""
    console = Console()
    if len(run_dirs) < 2:
        raise ValueError(
            f"a comparison needs two runs or more, got {len(run_dirs)}: innerloop compare RUN RUN"
        )
    names = _short_names(run_dirs)
    runs = [Trained(path, settings, weights, device) for path in run_dirs]
    number = runs[0].config.evaluate.tasks if tasks is None else tasks
    results = {
        name: run.score(console, number, steps, seed) for name, run in zip(names, runs, strict=True)
    }
    pairs = compare(results)
    console.print(facts(next(iter(results.values()))), soft_wrap=True)
    console.print(step_table(results))
    console.print(pair_table(pairs, next(iter(results.values()))))
    if json is not None:
        content = {
            "tasks": number,
            "seed": seed,
            "results": {
                name: {
                    "run": str(run.run_dir),
                    "method": result.method,
                    "mean": result.mean.tolist(),
                    "interval95": result.interval.tolist(),
                }
                for (name, result), run in zip(results.items(), runs, strict=True)
            },
            "pairs": [asdict(pair) for pair in pairs],
        }
        json.write_text(json_format.dumps(content, indent=2) + "\n", encoding="utf-8")
        console.print(f"written to {json}", soft_wrap=True)


def report_command(
    run_dir: Path,
    settings: Settings,
    baselines: Sequence[Path],
    out: Path | None,
    tasks: int | None,
    steps: int | None,
    weights: str,
    device: str | None,
) -> None:
    """Evaluate a run (and others beside it) and write its report."""
    console = Console()
    run = Trained(run_dir, settings, weights, device)
    result = run.score(console, tasks, steps, None)
    result.to_json(run_dir / "evaluation.json")
    others = {
        name: Trained(path, settings, weights, device).score(
            console, result.tasks, steps, result.seed
        )
        for name, path in zip(_short_names(baselines), baselines, strict=True)
    }
    path = report(run, result, others, out or run_dir / "report.html")
    console.print(f"{result.text()}; report: {path}", soft_wrap=True)


def report(
    run: Trained, result: EvaluationResult, others: Mapping[str, EvaluationResult], out: Path
) -> Path:
    """The report of a run that has been scored already."""
    metrics = run.run_dir / "metrics.jsonl"
    return write_report(
        out,
        result,
        title=run.config.name,
        records=read_metrics(metrics) if metrics.exists() else [],
        baselines=others,
        settings=plain(run.config),
        # A baseline has the public surface of a method, and that is all a report uses.
        method=cast(Method, run.method),
        source=run.splits.test,
    )


def facts(result: EvaluationResult) -> str:
    """Normalisation policy, tasks and queries: what a number must be read with."""
    kept = ("method", "norm", "estimator", "ensemble")
    said = [f"{k} {result.method[k]}" for k in kept if result.method.get(k)]
    keys = ("source", "split", "way", "shot", "queries")
    said += [f"{k} {result.source[k]}" for k in keys if result.source.get(k)]
    return ", ".join(said)


def step_table(results: Mapping[str, EvaluationResult]) -> Table:
    """One row per result, one column per inner step; only round numbers if there are many."""
    longest = max(result.steps for result in results.values())
    last = {result.steps for result in results.values()}
    columns = [s for s in range(longest + 1) if longest <= 10 or s in SHOWN_STEPS or s in last]
    first = next(iter(results.values()))
    what = "accuracy" if first.metric == "accuracy" else "mean squared error"
    if len(results) == 1:
        table = Table("inner steps", f"{what} ± 95 %", box=None, pad_edge=False)
        for s in columns:
            table.add_row(str(s), first.text(s))
        return table
    table = Table(f"{what} ± 95 % after", *map(str, columns), box=None, pad_edge=False)
    for name, result in results.items():
        table.add_row(name, *(result.text(s) if s <= result.steps else "" for s in columns))
    return table


def pair_table(pairs: Sequence[Comparison], result: EvaluationResult) -> Table:
    """Differences, task by task."""
    scale, unit = (100.0, " points") if result.metric == "accuracy" else (1.0, "")
    table = Table(
        "difference", "mean ± 95 %", "better", "equal", "worse", "shown", box=None, pad_edge=False
    )
    for pair in pairs:
        winner: Any = {"first": pair.first, "second": pair.second}.get(pair.better)
        table.add_row(
            f"{pair.first} - {pair.second}",
            f"{scale * pair.difference:+.3f} ± {scale * pair.interval:.3f}{unit}",
            str(pair.wins),
            str(pair.ties),
            str(pair.losses),
            f"{winner} is better" if winner else "no difference",
        )
    return table


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Folder names, or whole paths if two are the same."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]

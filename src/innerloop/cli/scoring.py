"""`innerloop evaluate`, `compare` and `report`: from runs on disk to scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Column, Table

from ..config import RunConfig, load, load_best, plain, sources, task_spec
from ..config.pieces import ends_at_features
from ..core.files import write_json
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
from .commands import Compare, Evaluate, Report
from .console import bars, say, show_table, terminal, visible
from .outputs import check_target, named_result
from .overrides import Overrides

SHOWN_STEPS = (0, 1, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500, 1000)
CELL = 20
"""Columns of the terminal that one run takes in a table of scores."""


class Trained:
    """A run brought back: its configuration, method and test tasks.

    With `ensemble` the method is the ensemble of that many best validations.

    Raises ValueError for data whose examples the weights were not made for.
    """

    def __init__(
        self,
        run_dir: Path,
        overrides: Overrides,
        weights: str,
        device: str | None = None,
        ensemble: int | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.config: RunConfig
        self.method: Trainable | Ensemble
        if ensemble is None:
            self.config, self.method, self.step = load(
                run_dir, weights=weights, settings=overrides.pairs, device=device
            )
        else:
            self.config, members, steps = load_best(
                run_dir, ensemble, settings=overrides.pairs, device=device
            )
            self.method, self.step = Ensemble(members), ", ".join(steps)
        config = self.config
        self.splits: Splits = sources.build(config.data, config.test, config.device(), config.files)
        self._check_shapes()

    def _check_shapes(self) -> None:
        made, _ = task_spec(self.run_dir)
        found = self.splits.test.spec
        same = (found.kind, found.x_shape) == (made.kind, made.x_shape)
        headless = ends_at_features(self.config.method.kind)
        if not same or (not headless and found.outputs != made.outputs):
            raise ValueError(
                f"{self.run_dir} was trained for {made.kind} of inputs {made.x_shape} with "
                f"{made.outputs} outputs, and these settings give {found.kind} of inputs "
                f"{found.x_shape} with {found.outputs}: leave its --data and --test.way as they are"
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
    with bars(console) as progress:
        bar = progress.add_task(visible(f"{name}: {tasks} tasks"), total=tasks)
        return evaluate(
            method,
            source,
            tasks,
            steps=steps,
            seed=seed,
            stream=stream,
            progress=lambda done, _: progress.update(bar, completed=done),
        )


def evaluate_run(asked: Evaluate, overrides: Overrides) -> None:
    """Evaluate one run, print the scores, and write them."""
    console = terminal()
    if asked.ensemble is not None and (asked.ensemble < 1 or asked.weights != "best"):
        raise ValueError(
            "an ensemble takes the best validations, at least one: --ensemble N without --weights, "
            f"got --ensemble {asked.ensemble} --weights {asked.weights}"
        )
    run = Trained(asked.run, overrides, asked.weights, asked.device, asked.ensemble)
    default = named_result(asked.run, "evaluation.json", asked.asked(overrides))
    path = check_target(asked.json or default)
    result = run.score(console, asked.tasks, asked.steps, asked.seed)
    result.to_json(path)
    say(console, f"{run.config.name}, weights of step {run.step}: {facts(result)}")
    for table in step_tables({"": result}, console.width):
        show_table(console, table)
    say(
        console,
        f"{result.text()} {after(result)}; {result.tasks} tasks, "
        f"{result.tasks_per_second:.0f} tasks/s; written to {path}",
    )


def compare_runs(asked: Compare, overrides: Overrides) -> None:
    """Evaluate several runs on the same tasks and show the paired differences."""
    console = terminal()
    if len(asked.runs) < 2:
        raise ValueError(
            f"a comparison needs two runs or more, got {len(asked.runs)}: innerloop compare RUN RUN"
        )
    names = _short_names(asked.runs)
    runs = [Trained(path, overrides, asked.weights, asked.device) for path in asked.runs]
    if asked.json is not None:
        check_target(asked.json)
    number = runs[0].config.evaluate.tasks if asked.tasks is None else asked.tasks
    results = {
        name: run.score(console, number, asked.steps, asked.seed)
        for name, run in zip(names, runs, strict=True)
    }
    pairs = compare(results)
    first = next(iter(results.values()))
    say(console, facts(first))
    for table in step_tables(results, console.width):
        show_table(console, table)
    for pair in pairs:
        say(console, pair_line(pair, first))
    if asked.json is not None:
        content = {
            "tasks": number,
            "seed": asked.seed,
            "results": {
                name: {
                    "run": visible(run.run_dir),
                    "method": result.method,
                    "mean": result.mean.tolist(),
                    "interval95": result.interval.tolist(),
                }
                for (name, result), run in zip(results.items(), runs, strict=True)
            },
            "pairs": [asdict(pair) for pair in pairs],
        }
        write_json(asked.json, content, indent=2)
        say(console, f"written to {asked.json}")


def report_run(asked: Report, overrides: Overrides) -> None:
    """Evaluate a run (and others beside it) and write its report."""
    console = terminal()
    run = Trained(asked.run, overrides, asked.weights, asked.device)
    others = [Trained(path, overrides, asked.weights, asked.device) for path in asked.baselines]
    label = asked.asked(overrides)
    out = check_target(asked.out or named_result(asked.run, "report.html", label))
    scores = check_target(named_result(asked.run, "evaluation.json", label))
    result = run.score(console, asked.tasks, asked.steps, None)
    result.to_json(scores)
    beside = {
        name: other.score(console, result.tasks, asked.steps, result.seed)
        for name, other in zip(_short_names(asked.baselines), others, strict=True)
    }
    path = report(run, result, beside, out)
    say(console, f"{result.text()}; report: {path}")


def report(
    run: Trained, result: EvaluationResult, others: Mapping[str, EvaluationResult], out: Path
) -> Path:
    """The report of a run that has been scored already."""
    metrics = run.run_dir / "metrics.jsonl"
    return write_report(
        out,
        result,
        title=visible(run.config.name),
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


def after(result: EvaluationResult) -> str:
    """`after 5 inner steps`, or that there are none."""
    if not result.steps:
        return "without inner steps"
    return f"after {result.steps} inner step{'s' if result.steps > 1 else ''}"


def step_tables(results: Mapping[str, EvaluationResult], width: int) -> Iterator[Table]:
    """One row per inner step (only round numbers if there are many), one column per result.

    As many tables as the window asks for: a score or a name that is cut is of no use.
    """
    longest = max(result.steps for result in results.values())
    last = {result.steps for result in results.values()}
    rows = [s for s in range(longest + 1) if longest <= 10 or s in SHOWN_STEPS or s in last]
    first = next(iter(results.values()))
    what = {"mse": "mean squared error"}.get(first.metric, first.metric)
    names = list(results)
    together = max(1, (width - len("inner steps")) // CELL)
    for start in range(0, len(names), together):
        chosen = names[start : start + together]
        heads = [Column(visible(n) or f"{what} ± 95 %", overflow="fold") for n in chosen]
        title = f"{what} ± 95 %" if len(names) > 1 else None
        table = Table("inner steps", *heads, box=None, pad_edge=False, title=title)
        table.title_justify = "left"
        for s in rows:
            scores = [results[n] for n in chosen]
            table.add_row(str(s), *(r.text(s) if s <= r.steps else "" for r in scores))
        yield table


def pair_line(pair: Comparison, result: EvaluationResult) -> str:
    """One difference, task by task, as a line that no window cuts."""
    scale, unit = (100.0, " points") if "accuracy" in result.metric else (1.0, "")
    winner: Any = {"first": pair.first, "second": pair.second}.get(pair.better)
    return (
        f"{pair.first} - {pair.second}: "
        f"{scale * pair.difference:+.3f} ± {scale * pair.interval:.3f}{unit}; better on "
        f"{pair.wins} tasks, equal on {pair.ties}, worse on {pair.losses}: "
        f"{f'{winner} is better' if winner else 'no difference shown'}"
    )


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Folder names, or whole paths if two are the same."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]

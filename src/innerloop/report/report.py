"""report.html: one file with the numbers, the settings and the pictures of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.files import write_text
from ..data.source import Source
from ..evaluate.compare import Comparison, compare
from ..evaluate.result import EvaluationResult, in_percent, quantile_95, title_of, with_interval
from ..method import Method
from . import gallery, page

POLICIES = {
    "batch": "Normalisation uses the statistics of the query batch (transductive): the prediction "
    "for a query depends on the queries beside it, so the score depends on the number of queries "
    "per class. Compare only with results of the same policy and number.",
    "support": "Normalisation uses the statistics of the support set: predictions do not depend on "
    "the other queries (not transductive).",
    "running": "Normalisation uses running averages from training: predictions do not depend on "
    "the other queries (not transductive).",
}


def write_report(
    path: str | Path,
    result: EvaluationResult,
    *,
    title: str,
    records: Sequence[Mapping[str, Any]] = (),
    baselines: Mapping[str, EvaluationResult] | None = None,
    settings: Mapping[str, Any] | None = None,
    method: Method | None = None,
    source: Source | None = None,
) -> Path:
    """Write the report of `result` as one HTML file that needs no network, whole or not at all.

    `records` are the run's metrics (learning curves), `baselines` other results on the same tasks,
    `settings` the configuration (nested mappings). With `method` and the test `source` the report
    shows sample episodes or fitted curves, the plane of parameter space, and which layers move.

    Raises: ValueError if a baseline was not evaluated on the same tasks, or only one of `method`
    and `source` is given.
    """
    if (method is None) != (source is None):
        raise ValueError("Give both method and source (for the pictures of tasks), or neither.")
    name = result.method.get("method", "method")
    results = {name: result, **_renamed(baselines or {}, name)}
    pairs = [
        compare({name: result, label: other})[0]
        for label, other in results.items()
        if label != name
    ]
    trained_steps = None if method is None else method.steps
    shown: list[page.Picture] = []
    parameters: list[page.Picture] = []
    if method is not None and source is not None:
        shown += gallery.samples(method, source, result)
        parameters += gallery.parameters(method, source, result)
    if records:
        shown.append(gallery.curves(records))
    whole = page.Page(
        warnings=_warnings(results, pairs),
        title=title,
        lead=f"{_data(result)} · {result.tasks} test tasks · {result.created[:10]}",
        cards=_headline(results),
        policy=_policy(result),
        transductive=result.method.get("norm") == "batch",
        interval=f"Mean over {result.tasks} test tasks ± 95 % interval of the mean (Student's t: "
        f"{quantile_95(result.tasks - 1):.3f} standard deviations over tasks, divided by the root "
        "of their number). It covers the choice of tasks, not that of the training seed.",
        scores=_scores(results),
        pairs=page.Table(
            ["", "difference", "better on", "equal on", "worse on", "shown"],
            [_pair_row(pair, result.metric) for pair in pairs],
        ),
        score_pictures=gallery.scores(results, trained_steps),
        pictures=shown,
        parameters=parameters,
        facts=_facts(result, settings or {}),
        footer=f"Written by innerloop. PyTorch {result.torch_version}, {result.device}.",
    )
    return write_text(path, page.render(whole))


def _renamed(baselines: Mapping[str, EvaluationResult], taken: str) -> dict[str, EvaluationResult]:
    return {f"{k} (baseline)" if k == taken else k: v for k, v in baselines.items()}


def _warnings(
    results: Mapping[str, EvaluationResult], pairs: Sequence[Comparison]
) -> Sequence[str]:
    """The first lines of the report: what forbids to be glad of the numbers below."""
    (name, first), *_ = results.items()
    said = []
    if first.diverged():
        said.append(
            f"{name} diverged: its score is not finite on {first.diverged()} of {first.tasks} "
            f"tasks after {_steps(first.steps)}. Use fewer steps or a smaller inner rate."
        )
    better = [pair for pair in pairs if pair.better == "second"]
    if better:
        each = "; ".join(
            f"{pair.second} has {results[pair.second].text()}, a difference of "
            f"{with_interval(abs(pair.difference), pair.interval, first.metric)}"
            for pair in better
        )
        said.append(
            f"{'A baseline beats' if len(better) == 1 else 'Baselines beat'} {name} on the same "
            f"{first.tasks} tasks: {each}, {name} {first.text()}. Meta-learning does not pay here."
        )
    return said


def _headline(results: Mapping[str, EvaluationResult]) -> list[tuple[str, str]]:
    (name, first), *others = results.items()
    entries = [(first.text(), f"{name}: {title_of(first.metric)} after {_steps(first.steps)}")]
    if first.steps:
        entries.append((first.text(0), f"{name}: before adaptation"))
    return entries + [(other.text(), f"{label}, {_steps(other.steps)}") for label, other in others]


def _policy(result: EvaluationResult) -> str:
    text = POLICIES.get(result.method.get("norm", ""))
    if text is None:
        return ""
    queries = result.source.get("queries")
    return text + (
        f" Queries per class: {queries}." if queries and in_percent(result.metric) else ""
    )


def _scores(results: Mapping[str, EvaluationResult]) -> page.Table:
    columns = _columns(max(result.steps for result in results.values()))
    rows = [
        [label, *(result.text(s) if s <= result.steps else "" for s in columns)]
        for label, result in results.items()
    ]
    return page.Table(["inner steps", *map(str, columns)], rows)


def _pair_row(pair: Comparison, metric: str) -> list[str]:
    names = {"first": pair.first, "second": pair.second}
    verdict: str = pair.better
    who, _, what = verdict.partition(" ")
    if who in names:
        verdict = f"{names[who]} {what or 'is better'}"
    difference = with_interval(pair.difference, pair.interval, metric)
    return [
        f"{pair.first} - {pair.second}",
        difference if math.isfinite(pair.difference) else "",
        str(pair.wins),
        str(pair.ties),
        str(pair.losses),
        verdict,
    ]


def _columns(longest: int) -> list[int]:
    """The steps of the score table: all of a few, else a selection that ends with the last."""
    if longest <= 5:
        return list(range(longest + 1))
    chosen = [s for s in (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500) if s < longest]
    return [*chosen[:7], longest]


def _facts(result: EvaluationResult, settings: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    facts = {
        "Method": result.method,
        "Tasks": result.source,
        "Evaluation": {
            "tasks": str(result.tasks),
            "seed": str(result.seed),
            "task stream": result.stream,
            "inner steps": str(result.steps),
            "tasks per second": f"{result.tasks_per_second:.1f}",
            "date": result.created,
            "device": result.device,
            "PyTorch": result.torch_version,
            "tasks digest": result.digest,
        },
    }
    if settings:
        facts["Configuration"] = {k: str(v) for k, v in dotted(settings).items()}
    return facts


def dotted(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings by the names that they are typed with."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= dotted(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


def _data(result: EvaluationResult) -> str:
    source = dict(result.source)
    parts = [source.get("source", "tasks")]
    if "way" in source:
        parts.append(f"{source['way']}-way {source.get('shot', '?')}-shot")
    elif "shot" in source:
        parts.append(f"{source['shot']} support points")
    return ", ".join(parts)


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"

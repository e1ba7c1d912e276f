"""report.html: one file with the numbers, the settings and the pictures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.files import write_text
from ..data.source import Source
from ..evaluate.compare import Comparison, compare
from ..evaluate.result import EvaluationResult, with_interval
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
    trained_steps = None if method is None else method.steps
    body = [
        page.cards(_headline(results)),
        *_policy(result),
        page.section("Scores", *_scores(results)),
        page.pair(*map(page.picture, gallery.scores(results, trained_steps))),
    ]
    if method is not None and source is not None:
        shown = gallery.samples(method, source, result)
        body += [page.section(p.title, page.picture(p)) for p in shown]
    if records:
        curves = gallery.curves(records)
        body.append(page.section(curves.title, page.picture(curves)))
    if method is not None and source is not None:
        inside = gallery.parameters(method, source, result)
        if inside:
            body.append(page.section("Parameters", page.pair(*map(page.picture, inside))))
    body.append(page.section("Settings", _settings(result, settings or {})))
    lead = f"{_data(result)} · {result.tasks} test tasks · {result.created[:10]}"
    footer = f"Written by innerloop. PyTorch {result.torch_version}, {result.device}."
    return write_text(path, page.document(title, lead, body, footer))


def _renamed(baselines: Mapping[str, EvaluationResult], taken: str) -> dict[str, EvaluationResult]:
    return {f"{k} (baseline)" if k == taken else k: v for k, v in baselines.items()}


def _headline(results: Mapping[str, EvaluationResult]) -> list[tuple[str, str]]:
    (name, first), *others = results.items()
    what = "accuracy" if first.metric == "accuracy" else "mean squared error"
    entries = [(first.text(), f"{name}: {what} after {_steps(first.steps)}")]
    if first.steps:
        entries.append((first.text(0), f"{name}: before adaptation"))
    return entries + [(other.text(), f"{label}, {_steps(other.steps)}") for label, other in others]


def _policy(result: EvaluationResult) -> list[str]:
    text = POLICIES.get(result.method.get("norm", ""))
    if text is None:
        return []
    queries = result.source.get("queries")
    per_class = f" Queries per class: {queries}." if queries and result.metric == "accuracy" else ""
    return [page.paragraph(text + per_class, note=result.method["norm"] == "batch")]


def _scores(results: Mapping[str, EvaluationResult]) -> list[str]:
    first = next(iter(results.values()))
    columns = _columns(max(result.steps for result in results.values()))
    rows = [
        [label, *(result.text(s) if s <= result.steps else "" for s in columns)]
        for label, result in results.items()
    ]
    parts = [
        page.paragraph(
            f"Mean over {first.tasks} test tasks ± 95 % interval of the mean (1.96 standard "
            "deviations over tasks, divided by the root of their number). It covers the choice of "
            "tasks, not that of the training seed."
        ),
        page.table(["inner steps", *map(str, columns)], rows),
    ]
    if len(results) > 1:
        (name, _), *others = results.items()
        pairs = [compare({name: first, label: other})[0] for label, other in others]
        parts += [
            page.paragraph("Compared task by task, after the last step of each:"),
            page.table(
                ["", "difference", "better on", "equal on", "worse on", "shown"],
                [_pair_row(pair, first) for pair in pairs],
            ),
        ]
    return parts


def _pair_row(pair: Comparison, first: EvaluationResult) -> list[str]:
    verdict = {"first": pair.first, "second": pair.second}.get(pair.better)
    return [
        f"{pair.first} - {pair.second}",
        with_interval(pair.difference, pair.interval, first.metric),
        str(pair.wins),
        str(pair.ties),
        str(pair.losses),
        f"{verdict} is better" if verdict else pair.better,
    ]


def _columns(longest: int) -> list[int]:
    """The steps of the score table: all of a few, else a selection that ends with the last."""
    if longest <= 5:
        return list(range(longest + 1))
    chosen = [s for s in (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500) if s < longest]
    return [*chosen[:7], longest]


def _settings(result: EvaluationResult, settings: Mapping[str, Any]) -> str:
    run = {
        "tasks": str(result.tasks),
        "seed": str(result.seed),
        "task stream": result.stream,
        "inner steps": str(result.steps),
        "tasks per second": f"{result.tasks_per_second:.1f}",
        "date": result.created,
        "device": result.device,
        "PyTorch": result.torch_version,
        "tasks digest": result.digest,
    }
    parts = [
        page.facts("Method", result.method),
        page.facts("Tasks", result.source),
        page.facts("Evaluation", run),
    ]
    if settings:
        parts.append(page.facts("Configuration", {k: str(v) for k, v in dotted(settings).items()}))
    return page.columns(*parts)


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
    if result.metric == "accuracy" and "way" in source:
        parts.append(f"{source['way']}-way {source.get('shot', '?')}-shot")
    elif "shot" in source:
        parts.append(f"{source['shot']} support points")
    return ", ".join(parts)


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"

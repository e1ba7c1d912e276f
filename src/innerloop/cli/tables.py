"""The table of `innerloop reproduce`, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import RunConfig
from ..core.files import write_text
from ..evaluate import EvaluationResult
from ..recipes.studies import Reported
from .cost import Cost

MARKDOWN, CSV = "table.md", "table.csv"
MIB = 2**20


@dataclass(frozen=True)
class Row:
    """A cell of a study: how its run was made, what it cost, and its two scores.

    `many` is tested with 15 queries per class, `few` with `queries`; None where that is not done.
    """

    setting: str
    method: str
    recipe: str
    config: RunConfig
    cost: Cost
    many: EvaluationResult | None
    few: EvaluationResult | None
    queries: int
    published: Reported | None

    @property
    def status(self) -> str:
        """Done, or what is missing."""
        if self.many is not None and self.few is not None:
            return "done"
        if self.cost.ended:
            return "not tested yet"
        return f"stopped after {self.cost.step} steps" if self.cost.step else "not run yet"

    @property
    def tasks_per_second(self) -> float | None:
        """Training tasks in a second of outer steps."""
        done = self.cost.step * self.config.train.meta_batch
        return done / self.cost.seconds if self.cost.seconds else None

    @property
    def step_of_training(self) -> str:
        """The tasks of one outer step: how many, way, shot and queries per class."""
        data = self.config.data
        return f"{self.config.train.meta_batch} × {data.way}w{data.shot}s+{data.queries}q"


def write_tables(folder: Path, title: str, about: str, rows: Sequence[Row]) -> tuple[Path, Path]:
    """Both files, each whole or not at all."""
    markdown = write_text(folder / MARKDOWN, _markdown(title, about, rows))
    return markdown, write_text(folder / CSV, _csv(rows))


def _markdown(title: str, about: str, rows: Sequence[Row]) -> str:
    lines = [f"# {title}", "", f"{about} {_facts(rows)}"]
    for setting in dict.fromkeys(row.setting for row in rows):
        chosen = [row for row in rows if row.setting == setting]
        head = [
            "method",
            "15 queries per class",
            f"{chosen[0].queries} per class, as in MAML's code",
            "published",
            "inner steps at test",
            "outer steps",
            "tasks of a step",
            "tasks/s",
            "training",
            "peak memory",
            "BatchNorm",
            "weights",
        ]
        way, shot = setting[:-1].split("w")
        lines += ["", f"## {way}-way {shot}-shot", ""]
        lines += _table(head, [_cells(row) for row in chosen])
    return "\n".join(lines) + "\n"


def _facts(rows: Sequence[Row]) -> str:
    """What all numbers must be read with; where runs differ, every value."""
    done = [result for row in rows for result in (row.many, row.few) if result is not None]
    if not done:
        return "Nothing has been run yet."

    def all_of(values: list[str]) -> str:
        return ", ".join(sorted(set(values)))

    dates = sorted({result.created[:10] for result in done})
    return (
        f"Accuracy ± 95 % interval over {all_of([str(r.tasks) for r in done])} test tasks of "
        f"classes never trained on ({all_of([r.source['source'] for r in done])}), "
        f"seed {all_of([str(r.seed) for r in done])}, weights that were best on validation, or the "
        "mean outputs of several, as the last column says. "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, "
        f"{all_of([r.device.partition(' (')[0] for r in done])}, "
        f"torch {all_of([r.torch_version for r in done])}. BatchNorm `batch` uses the statistics "
        "of the queries it sees and is transductive: accuracy depends on how many there are. "
        "Training is the time of the outer steps and of what they record, without validation; peak "
        "memory is that of one training process."
    )


def _cells(row: Row) -> list[str]:
    published = "–" if row.published is None else f"{row.published.value} ({row.published.source})"
    if row.many is None or row.few is None:
        return [row.method, row.status, "", published, *[""] * 8]
    cost, rate = row.cost, row.tasks_per_second
    workers = row.config.train.workers
    memory = "–" if cost.peak_memory is None else f"{cost.peak_memory / MIB:.0f} MiB"
    return [
        row.method,
        row.many.text(),
        row.few.text(),
        published,
        str(row.many.steps),
        str(cost.step),
        row.step_of_training,
        "–" if rate is None else f"{rate:.0f}",
        f"{cost.seconds / 60:.1f} min, {workers} process{'es' if workers > 1 else ''}",
        memory,
        row.many.method["norm"],
        _weights(row.many),
    ]


def _weights(result: EvaluationResult) -> str:
    return result.method.get("ensemble", "best").replace("mean outputs of ", "mean of ")


def _csv(rows: Sequence[Row]) -> str:
    """One line per cell, numbers as fractions and in bytes and seconds."""
    text = io.StringIO()
    names = ["setting", "method", "recipe", "status"]
    for protocol in ("15_queries", "shot_queries"):
        names += [f"accuracy_{protocol}", f"interval95_{protocol}"]
    names += ["test_tasks", "inner_steps", "outer_steps", "meta_batch", "train_way", "train_shot"]
    names += ["train_queries", "tasks_per_second", "seconds", "processes", "peak_memory", "norm"]
    names += ["weights", "published", "published_in"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        data, train, published = row.config.data, row.config.train, row.published
        scores: list[object] = []
        for result in (row.many, row.few):
            scores += ["", ""] if result is None else [result.mean[-1], result.interval[-1]]
        many = row.many
        tested = ["", ""] if many is None else [many.tasks, many.steps]
        rate = row.tasks_per_second
        writer.writerow(
            [row.setting, row.method, row.recipe, row.status, *scores, *tested, row.cost.step]
            + [train.meta_batch, data.way, data.shot, data.queries, "" if rate is None else rate]
            + [row.cost.seconds, train.workers, row.cost.peak_memory or ""]
            + (["", ""] if many is None else [many.method["norm"], _weights(many)])
            + (["", ""] if published is None else [published.value, published.source])
        )
    return text.getvalue()


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]

"""What an evaluation found, and how it is kept on disk."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files import write_json

FORMAT = "innerloop-evaluation-1"

TITLES = {"mse": "mean squared error"}
"""Metrics whose name is short for something."""

NORMAL_95 = 1.959963984540054
STUDENT_95 = (
    12.706205,
    4.302653,
    3.182446,
    2.776445,
    2.570582,
    2.446912,
    2.364624,
    2.306004,
    2.262157,
)
"""97.5 % quantiles of the normal distribution, and of Student's t with 1, 2, ..., 9 degrees."""


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Scores of one method on one list of tasks.

    `values[s, i]` is the score of task i after s inner steps, (S+1, tasks): its `metric` over the
    task's queries, such as "accuracy" in [0, 1] or "mse", and `larger_is_better` says which way it
    is good. `method` and `source` are what the two said of themselves, `digest` identifies the
    tasks' data, `seconds` is the time in the method alone.
    """

    metric: str
    larger_is_better: bool
    values: np.ndarray
    method: dict[str, str]
    source: dict[str, str]
    seed: int
    stream: str
    batch: int
    seconds: float
    device: str
    torch_version: str
    created: str
    digest: str

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return int(self.values.shape[1])

    @property
    def steps(self) -> int:
        """Number of inner steps S; row S of `values` is the last."""
        return int(self.values.shape[0]) - 1

    @property
    def mean(self) -> np.ndarray:
        """Mean over tasks at each step, (S+1,)."""
        return np.asarray(self.values.mean(1))

    @property
    def interval(self) -> np.ndarray:
        """Half-width of the 95 % interval of the mean per step, (S+1,); see `half_width`."""
        return np.asarray([half_width(row) for row in self.values])

    @property
    def tasks_per_second(self) -> float:
        """Tasks adapted and scored in one second."""
        return self.tasks / self.seconds if self.seconds > 0 else math.inf

    def diverged(self, step: int = -1) -> int:
        """Number of tasks whose score after `step` inner steps is not finite."""
        return int((~np.isfinite(self.values[step])).sum())

    def text(self, step: int = -1) -> str:
        """The score after `step` inner steps in print: `98.63 ± 0.17 %` or `0.381 ± 0.021`."""
        if self.diverged(step):
            return f"diverged on {self.diverged(step)} of {self.tasks} tasks"
        return with_interval(float(self.mean[step]), float(self.interval[step]), self.metric)

    def to_json(self, path: str | Path) -> Path:
        """Write the result, whole or not at all. Scores that are not finite become null."""
        summary = {
            "tasks": self.tasks,
            "steps": self.steps,
            "mean": self.mean.tolist(),
            "interval95": self.interval.tolist(),
            "tasks_per_second": self.tasks_per_second,
        }
        # The summary is for people and other programs; reading a result back computes it anew.
        kept = {**asdict(self), "values": self.values.tolist()}
        return write_json(path, {"format": FORMAT, "summary": summary, **kept})

    @classmethod
    def from_json(cls, path: str | Path) -> EvaluationResult:
        """Read what `to_json` wrote.

        Raises: ValueError if the file is not such a result; it names the file and what is wrong.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} is not an evaluation result: it is not JSON ({error})."
            ) from error
        return cls(**_checked(content, path))


def half_width(values: np.ndarray) -> float:
    """Half-width of the 95 % interval of the mean of n `values`: t sd / sqrt(n).

    t is the quantile of Student's distribution with n - 1 degrees of freedom: 1.96 for many values,
    and more for a few, whose standard deviation is itself uncertain. nan for a single value.
    """
    if values.size < 2 or not np.isfinite(values).all():
        return math.nan
    t = quantile_95(values.size - 1)
    return t * float(values.std(ddof=1)) / math.sqrt(values.size)


def quantile_95(degrees: int) -> float:
    """The 97.5 % quantile of Student's t: what leaves 5 % outside of plus and minus it.

    From a table up to 9 degrees of freedom; beyond, from the expansion in 1/degrees about the
    normal quantile z, which is then off by less than 1e-5; nan for none.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    if degrees < 1:
        return math.nan
    if degrees <= len(STUDENT_95):
        return STUDENT_95[degrees - 1]
    z = NORMAL_95
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))


def title_of(metric: str) -> str:
    """What an axis or a column of this metric is called."""
    return TITLES.get(metric, metric)


def in_percent(metric: str) -> bool:
    """Whether the metric is a share of right answers, which is printed in per cent."""
    return metric.endswith("accuracy")


def with_interval(mean: float, half: float, metric: str) -> str:
    """`98.63 ± 0.17 %` for an accuracy, `0.381 ± 0.021` for another metric."""
    if in_percent(metric):
        return f"{100 * mean:.2f} ± {100 * half:.2f} %"
    return f"{mean:.3f} ± {half:.3f}"


def _checked(content: Any, path: str | Path) -> dict[str, Any]:
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"{path} is not an evaluation result: expected format {FORMAT!r}, got {found!r}. "
            "Make one with `innerloop evaluate RUN`."
        )
    if content.get("metric") in ("accuracy", "mse"):  # older files do not say which way is good
        content.setdefault("larger_is_better", content["metric"] == "accuracy")
    names = [field.name for field in fields(EvaluationResult)]
    missing = [name for name in names if name not in content]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}: the file is cut or of another version."
        )
    kept = {name: content[name] for name in names}
    kept["values"] = np.array(
        [[math.nan if v is None else v for v in row] for row in kept["values"]], dtype=np.float64
    )
    if kept["values"].ndim != 2 or 0 in kept["values"].shape:
        raise ValueError(f"{path}: values must be a table (steps + 1) x tasks.")
    if not isinstance(kept["metric"], str) or not isinstance(kept["larger_is_better"], bool):
        raise ValueError(
            f"{path}: expected the name of a metric and true or false for larger_is_better, got "
            f"{kept['metric']!r} and {kept['larger_is_better']!r}."
        )
    return kept

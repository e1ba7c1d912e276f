"""What an evaluation found, and how it is kept on disk."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ..core.files import write_json

Metric = Literal["accuracy", "mse"]

NORMAL_95 = 1.96
"""Half-width of the 95 % interval of a normal distribution, in standard deviations."""

FORMAT = "innerloop-evaluation-1"


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Scores of one method on one list of tasks.

    `values[s, i]` is the score of task i after s inner steps, (S+1, tasks): the accuracy in [0, 1]
    or the mean squared error over the task's queries. `method` and `source` are what the two said
    of themselves, `digest` identifies the tasks' data, `seconds` is the time in the method alone.
    """

    metric: Metric
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
        """Half-width of the 95 % interval of the mean, 1.96 sd / sqrt(tasks), per step (S+1,)."""
        return np.asarray([half_width(row) for row in self.values])

    @property
    def tasks_per_second(self) -> float:
        """Tasks adapted and scored in one second."""
        return self.tasks / self.seconds if self.seconds > 0 else math.inf

    def text(self, step: int = -1) -> str:
        """The score after `step` inner steps in print: `98.63 ± 0.17 %` or `0.381 ± 0.021`."""
        return with_interval(float(self.mean[step]), float(self.interval[step]), self.metric)

    def to_json(self, path: str | Path) -> Path:
        """Write the result, whole or not at all. Scores that are not finite become null."""
        kept = {**asdict(self), "values": None}
        kept["values"] = [[_or_none(v) for v in row] for row in self.values.tolist()]
        summary = {
            "tasks": self.tasks,
            "steps": self.steps,
            "mean": [_or_none(v) for v in self.mean.tolist()],
            "interval95": [_or_none(v) for v in self.interval.tolist()],
            "tasks_per_second": _or_none(self.tasks_per_second),
        }
        # The summary is for people and other programs; reading a result back computes it anew.
        content = {"format": FORMAT, "summary": summary, **kept}
        return write_json(path, content)

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
    """Half-width of the 95 % interval of the mean of `values`; nan for a single value."""
    if values.size < 2:
        return math.nan
    with np.errstate(invalid="ignore"):
        return NORMAL_95 * float(values.std(ddof=1)) / math.sqrt(values.size)


def with_interval(mean: float, half: float, metric: Metric) -> str:
    """`98.63 ± 0.17 %` for an accuracy, `0.381 ± 0.021` for an error."""
    if metric == "accuracy":
        return f"{100 * mean:.2f} ± {100 * half:.2f} %"
    return f"{mean:.3f} ± {half:.3f}"


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _checked(content: Any, path: str | Path) -> dict[str, Any]:
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"{path} is not an evaluation result: expected format {FORMAT!r}, got {found!r}. "
            "Make one with `innerloop evaluate RUN`."
        )
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
    if kept["metric"] not in get_args(Metric):
        raise ValueError(
            f"{path}: metric must be one of {get_args(Metric)}, got {kept['metric']!r}."
        )
    return kept

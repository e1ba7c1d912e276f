"""What a training run has cost so far, kept beside it in `cost.json`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.files import write_text
from ..doctor.memory import process_peak

log = logging.getLogger("innerloop")

COST = "cost.json"


@dataclass(frozen=True)
class Cost:
    """Outer steps and seconds of training, whether it came to its end, and memory in bytes.

    `peak_memory` is the largest resident set of a training process (of the first, if there are
    several alike), or on a GPU the most that tensors took there; None where it cannot be known.
    """

    step: int = 0
    seconds: float = 0.0
    ended: bool = False
    peak_memory: int | None = None


class CostFile:
    """An observer of a run: writes its cost at every checkpoint and at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._step, self._seconds = 0, 0.0

    def __call__(self, record: Mapping[str, Any]) -> None:
        if record["event"] in ("train", "end"):
            self._step, self._seconds = record["step"], record["seconds"]
        if record["event"] in ("checkpoint", "end"):
            self._write(ended=record["event"] == "end")

    def _write(self, *, ended: bool) -> None:
        try:
            earlier = read_cost(self._folder)
        except ValueError as error:  # what a run has cost must not be what stops it
            log.warning(f"{error}. It is written anew")
            earlier = Cost()
        now = _peak()
        known = [peak for peak in (earlier.peak_memory, now) if peak is not None]
        cost = Cost(self._step, self._seconds, ended, max(known, default=None))
        write_text(self._folder / COST, json.dumps(asdict(cost)) + "\n")


def read_cost(folder: Path) -> Cost:
    """The cost of the run in a folder; of one that has none yet, nothing.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / COST
    try:
        return Cost(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Cost()
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it, and the run will be trained to its end"
        ) from error


def _peak() -> int | None:
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return process_peak()

"""Where the numbers of a run go: metrics.jsonl always, TensorBoard if asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]
"""One event of a run: `event`, `step`, and numbers.

"start" (step, iterations, kind), "train" (means since the last one), "validation", "checkpoint" and
"warning" (text), "end".
"""
Observer = Callable[[Record], None]

WRITTEN = ("train", "validation")


class MetricsFile:
    """Appends train and validation records to a JSONL file; a non-finite number becomes null."""

    def __init__(self, path: Path, *, after_step: int) -> None:
        """Keeps the lines up to `after_step` of an existing file and drops what came later."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _truncate(path, after_step)
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, record: Record) -> None:
        if record["event"] in WRITTEN:
            clean = {k: _finite(v) for k, v in record.items()}
            self._file.write(json.dumps(clean, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """The same records as TensorBoard scalars, named `train/loss` and so on."""

    def __init__(self, folder: Path, *, after_step: int) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise ValueError(
                "train.tensorboard=true needs TensorBoard: pip install 'innerloop[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=after_step + 1)

    def __call__(self, record: Record) -> None:
        if record["event"] in WRITTEN:
            for name, value in record.items():
                if isinstance(value, float):
                    self._writer.add_scalar(f"{record['event']}/{name}", value, record["step"])

    def close(self) -> None:
        self._writer.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line that a killed run left unfinished is dropped."""
    records = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
    return records


def _truncate(path: Path, after_step: int) -> None:
    kept = [r for r in read_metrics(path) if r["step"] <= after_step]
    draft = path.with_name(f".draft-{path.name}")
    draft.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
    draft.replace(path)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

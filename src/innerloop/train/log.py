"""Where the numbers of a run go: metrics.jsonl always, TensorBoard if asked for."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.files import write_bytes

Record = Mapping[str, Any]
"""One event of a run: `event`, `step`, and numbers.

"start" (step, iterations, minutes), "progress" (after the first step, then about once a second:
step_seconds, left, both in seconds), "train" (means since the last one), "validating" (after every
batch: done, tasks), "validation", "checkpoint" (path), "warning" (text), "end" (seconds).
"""
Observer = Callable[[Record], None]

WRITTEN = ("train", "validation")


class MetricsFile:
    """Appends train and validation records to a JSONL file; a non-finite number becomes null."""

    def __init__(self, path: Path, *, after_step: int, written: Record | None = None) -> None:
        """Goes on where a checkpoint ends: what came later is dropped, since it comes again.

        `written` is what `position` was then. Without one (a run without a checkpoint, or of an
        earlier version) lines count by their step, up to `after_step`. A file that does not begin
        with what was written is kept as `metrics.damaged-...`, its readable lines go on in a new
        one, and `warnings` says so.
        """
        self.warnings: list[str] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        content = self._kept(path, after_step, written)
        self._digest = hashlib.sha256(content)
        self._size = len(content)
        self._file = path.open("ab")
        self._file.truncate(self._size)

    def __call__(self, record: Record) -> None:
        if record["event"] in WRITTEN:
            clean = {k: _finite(v) for k, v in record.items()}
            line = (json.dumps(clean, allow_nan=False) + "\n").encode()
            self._file.write(line)
            self._file.flush()
            self._size += len(line)
            self._digest.update(line)

    def position(self) -> dict[str, Any]:
        """How much has been written, and its digest: what a checkpoint remembers of the file."""
        return {"bytes": self._size, "sha256": self._digest.hexdigest()}

    def close(self) -> None:
        self._file.close()

    def _kept(self, path: Path, after_step: int, written: Record | None) -> bytes:
        """The beginning of the file that stands; the file on the disk begins with it."""
        content = path.read_bytes() if path.exists() else b""
        if written is not None:
            start = content[: written["bytes"]]
            if hashlib.sha256(start).hexdigest() == written["sha256"]:
                return start
        readable, whole = _readable(content, after_step)
        if written is None and whole:
            write_bytes(path, readable, inside_run=True)
            return readable
        if not content:
            self.warnings.append(f"{path} is gone: the numbers before step {after_step} are lost")
            return b""
        aside = path.with_name(f"{path.stem}.damaged-{uuid.uuid4().hex[:8]}{path.suffix}")
        path.rename(aside)
        self.warnings.append(
            f"{path} is not as the run wrote it (damaged, shortened or edited); it is kept as "
            f"{aside.name}, and its readable lines up to step {after_step} go on in a new file"
        )
        write_bytes(path, readable, inside_run=True)
        return readable


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
    """The records of a metrics.jsonl; a last line that a killed run left unfinished is dropped.

    Raises ValueError, with the line, where the file holds anything else.
    """
    records = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = _record(line)
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: {error}") from error
        else:
            records.append(record)
    return records


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise ValueError(f"expected a record with its step, got {line[:40].decode()}")
    return record


def _readable(content: bytes, after_step: int) -> tuple[bytes, bool]:
    """The lines up to a step that are records, and whether all lines are.

    The last one may be unfinished.
    """
    kept, whole = b"", True
    *lines, _ = content.split(b"\n")
    for line in lines:
        try:
            if _record(line)["step"] <= after_step:
                kept += line + b"\n"
        except ValueError:
            whole = False
    return kept, whole


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

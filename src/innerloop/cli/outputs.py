"""Where results go: never over another result, never over what is not a result."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..core.files import check_file

LONGEST = 120


def named_result(run: Path, name: str, asked: str) -> Path:
    """`RUN/evaluation.json`, or `RUN/evaluation-tasks-50.json` for a test with other settings.

    A test as the run describes it has the plain name; any other has one of its own, so that it
    takes the place of nothing but an earlier test with the same settings.
    """
    stem, _, suffix = name.rpartition(".")
    if not asked:
        return run / name
    if len(asked) > LONGEST:
        asked = f"{asked[:LONGEST]}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"
    return run / f"{stem}-{asked}.{suffix}"


def check_target(path: Path) -> Path:
    """Refuse a file that cannot be written, before anything is computed for it.

    Raises:
        ValueError: it is no ordinary file, a part of a run, or stands in something that is no
            folder.
    """
    check_file(path)
    for parent in path.resolve().parents:
        if parent.is_dir():
            return path
        if parent.exists():
            raise ValueError(f"{path}: {parent} is a file, not a folder; choose another path")
    return path

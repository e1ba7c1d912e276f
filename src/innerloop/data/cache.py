"""Where data lives on this machine, and how it is written there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def data_folder() -> Path:
    """The folder of data sets: the environment variable INNERLOOP_DATA, or ~/.cache/innerloop."""
    named = os.environ.get("INNERLOOP_DATA")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "innerloop"


def cache_folder() -> Path:
    """The folder of what can be made again: `innerloop` in XDG_CACHE_HOME, or in ~/.cache."""
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named).expanduser() if named else Path.home() / ".cache") / "innerloop"


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed npz so that `path` holds either its old content or all of the new.

    Raises OSError when the folder cannot be written; nothing is left behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem + ".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise

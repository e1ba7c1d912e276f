"""Where data lives on this machine, and how it is written there."""

from __future__ import annotations

import os
import zipfile
import zlib
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


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file.

    Raises ValueError when it is damaged or something else, OSError when it cannot be opened.
    """
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as opened:
                if not isinstance(opened, np.lib.npyio.NpzFile):
                    raise ValueError("a single array")
                return {key: opened[key] for key in opened.files}
        except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} is damaged or not an npz file ({error})") from error


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed npz so that `path` holds either its old content or all of the new.

    Raises OSError when the folder cannot be written; nothing is left behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise

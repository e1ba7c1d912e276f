"""Where data lives on this machine, and how it is written there."""

from __future__ import annotations

import io
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..core.files import write_bytes

DAMAGED = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What Python and numpy raise on a damaged, encrypted or made-up zip or array file."""

MOST_BYTES = 1 << 30
"""What an npz file of ours may unpack to; the largest, all of Omniglot, is 30 MB."""


def expand(path: Path | str) -> Path:
    """A path with `~` and `~somebody` in words. Raises ValueError where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{path}: the home folder is not known ({error}); write the whole path"
        ) from error


def data_folder() -> Path:
    """The folder of data sets: the environment variable INNERLOOP_DATA, or ~/.cache/innerloop."""
    named = os.environ.get("INNERLOOP_DATA")
    return expand(named) if named else Path.home() / ".cache" / "innerloop"


def cache_folder() -> Path:
    """The folder of what can be made again: `innerloop` in XDG_CACHE_HOME, or in ~/.cache."""
    named = os.environ.get("XDG_CACHE_HOME")
    return (expand(named) if named else Path.home() / ".cache") / "innerloop"


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file.

    Raises ValueError when it is damaged or something else, or unpacks to more than `MOST_BYTES`;
    OSError when it cannot be opened.
    """
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as opened:
                if not isinstance(opened, np.lib.npyio.NpzFile):
                    raise ValueError("a single array")
                with zipfile.ZipFile(path) as archive:
                    size = sum(info.file_size for info in archive.infolist())
                if size > MOST_BYTES:
                    raise ValueError(f"it unpacks to {size} bytes, at most {MOST_BYTES} are read")
                return {key: opened[key] for key in opened.files}
        except DAMAGED as error:
            raise ValueError(f"{path} is damaged or not an npz file ({error})") from error


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed npz so that `path` holds either its old content or all of the new.

    Raises OSError when the folder cannot be written; nothing is left behind then.
    """
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
    write_bytes(path, packed.getvalue())

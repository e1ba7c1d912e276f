"""How the files of published data sets lie: pickled dictionaries, arrays of rows, image files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..images.files import BadImage, read_image
from ..validate import join_names

ROWS = 1024
"""Images copied at a time."""


def pickled_entries(content: Any, keys: Sequence[str], path: Path) -> list[Any]:
    """The values of a pickled dictionary at `keys`, which Python 2 may have written as bytes."""
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected a dictionary with {' and '.join(keys)}, found "
            f"a {type(content).__name__}; it is not one of the published files"
        )
    known = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in content.items()}
    absent = [key for key in keys if key not in known]
    if absent:
        raise ValueError(
            f"{path}: expected entries {' and '.join(keys)}, found {join_names(map(str, known))}; "
            "it is "
            "not one of the published files"
        )
    return [known[key] for key in keys]


def as_list(value: Any, what: str, path: Path) -> list[Any]:
    """A list, tuple or array (N,) of a pickle as a list. Raises ValueError for anything else."""
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return value.tolist()
    raise ValueError(
        f"{path}: expected {what} to be a list, found a {type(value).__name__}; it is not one of "
        "the published files"
    )


def as_numbers(value: Any, what: str, path: Path) -> Tensor:
    """A list or array (N,) of whole numbers as int64 (N,). Raises ValueError for anything else."""
    numbers = as_list(value, what, path)
    wrong = [n for n in numbers if type(n) is not int or not -(2**63) <= n < 2**63]
    if wrong:
        raise ValueError(
            f"{path}: expected whole numbers as {what}, found {wrong[0]!r:.80}; it is not one of "
            "the published files"
        )
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")


def number_labels(labels: Any, count: int, path: Path) -> tuple[Tensor, list[Any]]:
    """One label per image, as int64 (count,) into the sorted distinct labels, which come second."""
    try:
        array = np.asarray(labels)
    except ValueError:
        array = np.empty((0, 0))
    if array.shape != (count,) or array.dtype.kind not in "iuSU":
        raise ValueError(
            f"{path}: expected {count} labels, one number or name per image, found "
            f"{array.dtype} of shape {array.shape}"
        )
    distinct, index = np.unique(array, return_inverse=True)
    return torch.from_numpy(index.astype(np.int64)), distinct.tolist()


def from_array(array: Any, side: int, path: Path) -> Tensor:
    """uint8 (N, side, side, 3) in an array, as (N, 3, side, side)."""
    shape, kind = getattr(array, "shape", ()), getattr(array, "dtype", type(array).__name__)
    check_rows(shape, kind, side, path)
    return from_rows((array[i : i + ROWS] for i in range(0, len(array), ROWS)), len(array), side)


def check_rows(shape: Sequence[int], kind: Any, side: int, path: Path) -> None:
    """Raises ValueError unless this is the shape and type of RGB images of `side` pixels."""
    right = len(shape) == 4 and tuple(shape[1:]) == (side, side, 3) and shape[0] > 0
    if not right or kind != np.uint8:
        raise ValueError(
            f"{path}: expected images of uint8 and shape (N, {side}, {side}, 3), found {kind} of "
            f"shape {tuple(shape)}"
        )


def from_rows(parts: Iterable[np.ndarray], count: int, side: int) -> Tensor:
    """Parts (n, side, side, 3) of `count` images, one after another into (count, 3, side, side)."""
    images = _empty_images(count, side)
    done = 0
    for part in parts:
        # A copy, because torch takes no array that cannot be written to.
        images[done : done + len(part)] = torch.from_numpy(part.copy()).permute(0, 3, 1, 2)
        done += len(part)
    assert done == count
    return images


def from_files(paths: Sequence[Path], side: int) -> Tensor:
    """Image files as uint8 RGB (N, 3, side, side), each read into its place.

    Raises ValueError that names the files that are missing or cannot be read.
    """
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise ValueError(
            f"expected {len(paths)} image files, found {len(paths) - len(absent)}; "
            f"{join_names(map(str, absent))} are not there, to fix it fetch them again"
        )
    images = _empty_images(len(paths), side)
    bad = [str(error) for error in _read_into(images, paths, side)]
    if bad:
        raise ValueError(f"{len(bad)} of {len(paths)} images cannot be read: {join_names(bad)}")
    return images


def _empty_images(count: int, side: int) -> Tensor:
    """Room for images. Raises ValueError when memory has none."""
    try:
        return torch.empty(count, 3, side, side, dtype=torch.uint8, device="cpu")
    except RuntimeError as error:
        raise ValueError(
            f"{count} images of {side} x {side} pixels take {count * 3 * side**2 / 1e9:.1f} GB, "
            "more than there is; prepare them on a larger machine with prepare_published"
        ) from error


def _read_into(images: Tensor, paths: Sequence[Path], side: int) -> Iterator[BadImage]:
    for row, path in enumerate(paths):
        try:
            images[row] = read_image(path, side)
        except BadImage as error:
            yield error

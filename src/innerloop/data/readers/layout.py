"""What every published data set has: splits of a known size, and files laid out in known ways."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..images.files import BadImage, read_image
from ..pool import ClassPool
from ..validate import named

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SHORT: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}
"""The splits as file names have them."""

ROWS = 1024
"""Images copied at a time."""


@dataclass(frozen=True)
class Layout:
    """A published data set: its sizes, how its files lie, and where they come from.

    `side` is the images' side in pixels, `classes` the number of classes of each split, `images`
    that of all images together; `files` names the accepted layouts and `origin` who made them.
    """

    name: str
    side: int
    classes: Mapping[Split, int]
    images: int
    files: str
    origin: str

    def missing(self, folder: Path, split: Split) -> FileNotFoundError:
        """Nothing is there to read: what to put where."""
        return FileNotFoundError(
            f"no {split} split of {self.name} in {folder}: expected {self.files}. It cannot be "
            f"downloaded from here; get it from its makers ({self.origin}), and say where it is "
            "with --data.root DIR or INNERLOOP_DATA"
        )

    def check_classes(self, split: Split, class_names: Sequence[str], where: Path) -> None:
        """Raises ValueError unless there are as many classes as published."""
        expected, found = self.classes[split], len(class_names)
        if found != expected:
            raise ValueError(
                f"{where}: expected {expected} {split} classes of {self.name}, found {found}; "
                "the file is incomplete or another split's, to fix it fetch it again"
            )

    def pool(
        self,
        split: Split,
        images: Tensor,
        label: Tensor,
        class_names: Sequence[str],
        where: Path,
        groups: tuple[Tensor, Sequence[str]] | None = None,
    ) -> ClassPool:
        """The pool, if it has the published number of classes and an image of each."""
        self.check_classes(split, class_names, where)
        counts = torch.bincount(label, minlength=len(class_names))
        empty = [class_names[k] for k in (counts == 0).nonzero().flatten().tolist()]
        if empty:
            raise ValueError(
                f"{where}: expected images of every class, found none of {len(empty)} classes: "
                f"{named(empty)}; to fix it fetch the files again"
            )
        group, group_names = groups or (torch.zeros(len(class_names), dtype=torch.int64), ["all"])
        return ClassPool(images, label, list(class_names), group, list(group_names))


def check_split(split: str) -> None:
    """Raises ValueError for a word that is not one of the three splits."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")


def entries(content: Any, keys: Sequence[str], path: Path) -> list[Any]:
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
            f"{path}: expected entries {' and '.join(keys)}, found {named(map(str, known))}; it is "
            "not one of the published files"
        )
    return [known[key] for key in keys]


def numbered(labels: Any, count: int, path: Path) -> tuple[Tensor, list[Any]]:
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
    images = torch.empty(count, 3, side, side, dtype=torch.uint8)
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
            f"{named(map(str, absent))} are not there, to fix it fetch them again"
        )
    images = torch.empty(len(paths), 3, side, side, dtype=torch.uint8)
    bad = [str(error) for error in _filled(images, paths, side)]
    if bad:
        raise ValueError(f"{len(bad)} of {len(paths)} images cannot be read: {named(bad)}")
    return images


def _filled(images: Tensor, paths: Sequence[Path], side: int) -> Iterator[BadImage]:
    for row, path in enumerate(paths):
        try:
            images[row] = read_image(path, side)
        except BadImage as error:
            yield error

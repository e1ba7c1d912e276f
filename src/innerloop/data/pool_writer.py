"""Writing a prepared data set: rows go to disk as they come, so it may be larger than memory."""

from __future__ import annotations

import json
import os
import shutil
from array import array
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from torch import Tensor

from .cache import expand
from .mapped import DTYPES
from .source import PARTS
from .validate import join_names

IMAGES, LABELS, CLASSES = "images.npy", "labels.npy", "classes.json"
VERSION = 1
_HEADER = 256


class PoolWriter:
    """A prepared data set in the making: a folder of three files, which `prepared` reads.

    `images.npy` holds the rows (N, ...), uint8 or float32, `labels.npy` the class of each, int64
    (N,), and `classes.json` the names. The rows of one class may come in several calls of `add`,
    and the classes in any order; they are numbered as they first come:

        with PoolWriter("measurements") as out:
            for name, rows in classes:
                out.add(name, rows)

    Everything goes to a hidden folder beside `out`, which takes its name when the block ends; when
    it ends by an error, nothing is left. Held in memory are 8 bytes per row. `name` is what results
    call the data, by default the name of the folder.

    Raises FileExistsError when `out` is there already; ValueError for rows of another shape or
    dtype, values that are not finite, a class in two groups or splits, and for no rows at all.
    """

    def __init__(self, out: Path | str, *, name: str | None = None) -> None:
        self.out = expand(out).absolute()
        self.name = name or self.out.name
        self._draft = self.out.with_name(f".{self.out.name}.{os.getpid()}.part")
        self._labels = array("q")
        self._numbers: dict[str, int] = {}
        self._places: list[tuple[str, str | None]] = []
        self._shape: tuple[int, ...] = ()
        self._dtype: np.dtype | None = None
        if self.out.exists():
            raise FileExistsError(f"{self.out} is there already; remove it, or write elsewhere")

    def __enter__(self) -> Self:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        _clear_drafts(self.out)
        self._draft.mkdir()
        self._file = (self._draft / IMAGES).open("wb")
        self._file.write(bytes(_HEADER))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            try:
                self._file.close()  # writes what is left, which a full disk refuses
            finally:
                shutil.rmtree(self._draft, ignore_errors=True)

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def n_classes(self) -> int:
        return len(self._places)

    def add(
        self,
        class_name: str,
        rows: Tensor | np.ndarray,
        *,
        group: str = "all",
        split: str | None = None,
    ) -> None:
        """Write `rows` (k, ...) of one class; `split` is where it belongs, if that is settled."""
        values = rows.detach().cpu().numpy() if isinstance(rows, Tensor) else rows
        self._check(class_name, values)
        if split is not None and split not in PARTS:
            raise ValueError(f"split must be one of {', '.join(PARTS)}, got {split!r}")
        number = self._numbers.setdefault(class_name, len(self._numbers))
        if number == len(self._places):
            self._places.append((group, split))
        elif self._places[number] != (group, split):
            raise ValueError(
                f"class {class_name} came with group and split {self._places[number]}, now with "
                f"{(group, split)}; a class belongs to one of each"
            )
        self._file.write(np.ascontiguousarray(values).data)
        self._labels.extend([number] * len(values))

    def _check(self, class_name: str, values: np.ndarray) -> None:
        """Raises ValueError unless these rows are like those before them."""
        if values.dtype not in DTYPES:
            raise ValueError(
                f"class {class_name} is {values.dtype}, expected uint8 (0..255) or float32; "
                "convert with .astype(np.float32) or .float()"
            )
        if values.ndim < 2 or 0 in values.shape:
            raise ValueError(
                f"class {class_name} should be rows of shape (k, ...), got {values.shape}; "
                "give one row as row[None]"
            )
        if self._dtype is None:
            self._shape, self._dtype = values.shape[1:], values.dtype
        if (values.shape[1:], values.dtype) != (self._shape, self._dtype):
            raise ValueError(
                f"class {class_name} has rows {values.shape[1:]} of {values.dtype}, those before "
                f"it {self._shape} of {self._dtype}; all rows of a set are alike"
            )
        if values.dtype != np.uint8:
            bad = int((~np.isfinite(values).reshape(len(values), -1).all(1)).sum())
            if bad:
                raise ValueError(
                    f"{bad} of {len(values)} rows of class {class_name} hold NaN or infinite "
                    "values; remove them or fill the gaps"
                )

    def _finish(self) -> None:
        """Header, labels and names; then the folder gets its name."""
        if self._dtype is None:
            raise ValueError(
                f"nothing to write to {self.out}: add(class_name, rows) was not called"
            )
        splits = [split for _, split in self._places]
        if set(splits) not in ({None}, set(PARTS)):
            where = join_names(f"{n} ({s})" for n, s in zip(self._numbers, splits, strict=True))
            raise ValueError(
                "either no class has a split, or all have and train, validation and test have "
                f"some each; got {where}"
            )
        size = self._file.tell()
        self._file.seek(0)
        self._file.write(_header((len(self), *self._shape), self._dtype))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        np.save(self._draft / LABELS, np.frombuffer(self._labels, np.int64))
        groups = sorted({group for group, _ in self._places})
        names = {
            "innerloop": VERSION,
            "name": self.name,
            "bytes": size,
            "class_names": list(self._numbers),
            "class_group": [groups.index(group) for group, _ in self._places],
            "group_names": groups,
            "class_split": None if None in splits else splits,
        }
        text = json.dumps(names, ensure_ascii=False, indent=1)
        (self._draft / CLASSES).write_text(text + "\n", encoding="utf-8")
        os.replace(self._draft, self.out)


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The start of an .npy file (version 1.0), always as long, so that it can be written last."""
    fields = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    start = np.lib.format.magic(1, 0)
    room = _HEADER - len(start) - 2
    text = f"{fields!r}".ljust(room - 1) + "\n"
    assert len(text) == room, f"no room for the shape {shape}"
    return start + room.to_bytes(2, "little") + text.encode()


def _clear_drafts(out: Path) -> None:
    """Remove what processes that were killed have left of this data set."""
    for draft in out.parent.glob(f".{out.name}.*.part"):
        owner = draft.name.split(".")[-2]
        if os.name == "posix" and owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(draft, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True

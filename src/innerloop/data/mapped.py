"""Rows of an .npy file that stays on disk: a task reads the ones it needs, and no others.

The format is NumPy's own. Its rows lie in the file as they lie in memory, like those of
safetensors, but its header is a fixed place at the start, which a writer fills in last, when it
knows how many rows there were; and `np.load(path, mmap_mode="r")` shows anybody the same array.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from .cache import expand

DTYPES = {np.dtype("uint8"): torch.uint8, np.dtype("<f4"): torch.float32}
"""What may be mapped."""

_CHUNK = 1 << 26
_HEADERS: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class MappedRows:
    """The array (N, ...) of an .npy file, uint8 or float32, mapped read-only and never copied.

    `rows[index]` with an int64 index (k,) is a view of those rows that reads nothing; `read` makes
    a tensor of some; `to` makes a tensor of all. Pickled (for worker processes) it is the path: the
    other process opens a map of its own. Memory held is 8 bytes per row of a view; what is read
    stays in the system's page cache, which gives it back when memory is short.

    Raises FileNotFoundError when there is no file, ValueError when it is not an .npy file, is cut
    short or too long, empty, in Fortran order, or of another dtype; and from `read` when the file
    has changed its size since.
    """

    device = torch.device("cpu")

    def __init__(self, path: Path | str) -> None:
        self.path = expand(path).absolute()
        if not self.path.is_file():
            raise FileNotFoundError(f"no array file {self.path}")
        with self.path.open("rb") as file:
            shape, dtype, start = _layout(self.path, file)
            # Private writable maps count as memory in use, so a file larger than memory is refused.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes, self._start = len(self._map), start
        self._array = np.frombuffer(self._map, dtype, offset=start).reshape(shape)
        self._index: Tensor | None = None
        self._negative = False
        self.dtype = DTYPES[dtype]

    def __len__(self) -> int:
        return len(self._array) if self._index is None else len(self._index)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self._array.shape[1:]))

    @property
    def ndim(self) -> int:
        return self._array.ndim

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, as they would lie in memory."""
        return len(self) * self._row_bytes

    def __getitem__(self, index: Tensor) -> MappedRows:
        return self._view(index if self._index is None else self._index[index], self._negative)

    def inverted(self) -> MappedRows:
        """A view of 255 - x, or 1 - x for float32."""
        return self._view(self._index, not self._negative)

    def read(self, index: Tensor, *, pinned: bool = False) -> Tensor:
        """Rows `index`, int64 (k,), as a tensor (k, ...); `pinned` on its way to an accelerator."""
        if self._map.size() != self._bytes:  # a page beyond the end would kill the process
            raise ValueError(
                f"{self.path} had {self._bytes} bytes when it was opened, now {self._map.size()}; "
                "prepare it again, under another name while it is in use"
            )
        rows = index if self._index is None else self._index[index]
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self._array):
            raise IndexError(
                f"rows must lie in [0, {len(self._array)}), got {int(rows.min())}.."
                f"{int(rows.max())}"
            )
        self._announce(rows)
        out = torch.empty(
            (len(rows), *self.shape[1:]), dtype=self.dtype, pin_memory=pinned, device="cpu"
        )
        np.take(self._array, rows.numpy(), axis=0, out=out.numpy(), mode="clip")
        if not self._negative:
            return out
        return out.bitwise_not_() if self.dtype == torch.uint8 else out.neg_().add_(1)

    def to(self, device: torch.device | str) -> Tensor:
        """All rows in the memory of `device`, read some at a time.

        Raises ValueError when they do not fit.
        """
        try:
            out = torch.empty(self.shape, dtype=self.dtype, device=device)
        except RuntimeError as error:
            raise ValueError(
                f"{self.nbytes / 1e9:.2f} GB of {self.path} do not fit on {device}; leave them on "
                "disk (resident=False, --data.resident False)"
            ) from error
        for rows in torch.arange(len(self), device="cpu").split(max(1, _CHUNK // self._row_bytes)):
            out[int(rows[0]) : int(rows[-1]) + 1].copy_(self.read(rows))
        return out

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.path, self._bytes, self._index, self._negative)

    @property
    def _row_bytes(self) -> int:
        return self._array.itemsize * int(np.prod(self._array.shape[1:]))

    def _view(self, index: Tensor | None, negative: bool) -> MappedRows:
        view = object.__new__(MappedRows)
        view.__dict__.update(self.__dict__)
        view._index, view._negative = index, negative
        return view

    def _announce(self, rows: Tensor) -> None:
        """Tell the system what comes, so that it reads all rows at once and not one page by one.

        From a cold disk three to five times as fast; 2 microseconds a row when they are in memory.
        """
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        first = self._start + rows * self._row_bytes
        page = first - first % mmap.PAGESIZE
        for start, length in zip(
            page.tolist(), (first + self._row_bytes - page).tolist(), strict=True
        ):
            self._map.madvise(mmap.MADV_WILLNEED, start, length)


def _reopen(path: Path, size: int, index: Tensor | None, negative: bool) -> MappedRows:
    """What a pickled `MappedRows` becomes."""
    rows = MappedRows(path)
    if rows._bytes != size:
        raise ValueError(
            f"{path} had {size} bytes when it was first opened, now {rows._bytes}; stop what "
            "writes it, and start again"
        )
    return rows._view(index, negative)


def _layout(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype and first byte of the array in an opened .npy file."""
    made = 'np.save(path, array) of NumPy makes one, and PoolWriter or "innerloop prepare"'
    try:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"version {version[0]}.{version[1]}")
        shape, fortran, dtype = _HEADERS[version](file)
    except ValueError as error:
        raise ValueError(f"{path} is not an .npy file ({error}); {made}") from error
    if dtype not in DTYPES:
        raise ValueError(
            f"{path} holds {dtype}, expected uint8 (0..255) or little-endian float32; write it "
            "again with array.astype(np.float32)"
        )
    if fortran and len(shape) > 1:
        raise ValueError(
            f"{path} is in Fortran order, where a row lies in pieces; write it again with "
            "np.ascontiguousarray(array)"
        )
    if len(shape) < 2 or 0 in shape:
        raise ValueError(f"{path} should hold rows of shape (N, ...), got shape {shape}")
    start, size = file.tell(), path.stat().st_size
    expected = start + dtype.itemsize * int(np.prod(shape, dtype=object))
    if size != expected:
        kind = "cut short" if size < expected else "too long"
        raise ValueError(
            f"{path} is {kind}: {expected} bytes for {shape} of {dtype}, got {size}; copy or "
            "prepare it again"
        )
    return shape, dtype, start

"""Pickle files of arrays, read without running anything that they hold.

A pickle names functions to call. Here only the few names that numpy arrays are written with are
known, and they stand for our own decoders; every other name is refused before it is looked up.
Files written by Python 2 are read as well.
"""

from __future__ import annotations

import math
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

KINDS = frozenset("biufSU?")
"""Type letters of arrays that are plain bytes: numbers, truth values and fixed-width texts."""


def read_pickle(path: Path) -> Any:
    """What a pickle file holds: dictionaries, lists, tuples, texts, bytes, numbers, numpy arrays.

    Arrays hold numbers or texts; arrays of objects become lists. The arrays share the memory of the
    file's bytes and cannot be written to.

    Raises FileNotFoundError, and ValueError naming the file when it is damaged, is not a pickle, or
    holds anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with path.open("rb") as file:
            return _plain(_Unpickler(file, encoding="latin1").load())
    except _Refused as error:
        raise ValueError(
            f"{path} holds {error}, and reading that could run code. Only numpy arrays, numbers, "
            "texts, lists and dictionaries are read; write the file again from those"
        ) from None
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise ValueError(
            f"{path} is damaged or not a pickle file of arrays ({error}); fetch it again"
        ) from error


class _Refused(Exception):
    """A name that is not ours."""


class _Dtype:
    """`numpy.dtype(letters)`, then its byte order."""

    __slots__ = ("letters", "order")

    def __init__(self, letters: str):
        self.letters, self.order = letters, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subtype, names, fields, *_ = state
        if subtype is not None or names is not None or fields is not None:
            raise _Refused("an array of records")
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"byte order {order!r}")
        self.order = order

    @property
    def objects(self) -> bool:
        return self.letters.lstrip("|<>=").startswith("O")

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.letters).newbyteorder("=" if self.order == "|" else self.order)  # type: ignore[arg-type]


class _Array:
    """An array in the making: numpy writes an empty one and then its state."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _Dtype):
            raise TypeError("an array without a type")
        if dtype.objects:
            if len(shape) != 1 or not isinstance(content, list):
                raise _Refused("an array of objects with several axes")
            self.value = content
            return
        self.value = _shaped(content, dtype, shape, "F" if fortran else "C")


class _NdArray:
    """Stands for the class `numpy.ndarray`, which arrays are said to be of."""

    __slots__ = ()


class _MakeDtype:
    __slots__ = ()

    def __call__(self, letters: Any, align: Any = False, copy: Any = True) -> _Dtype:
        if not isinstance(letters, str):
            raise _Refused("an array of records")
        if letters.lstrip("|<>=")[:1] not in KINDS | {"O"}:
            raise _Refused(f"an array of type {letters!r}")
        return _Dtype(letters)


class _Reconstruct:
    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, letter: Any) -> _Array:
        if not isinstance(kind, _NdArray):
            raise _Refused("a special kind of array")
        return _Array()


class _Scalar:
    __slots__ = ()

    def __call__(self, dtype: _Dtype, content: Any = b"") -> Any:
        return _shaped(content, dtype, (), "C").item()


class _FromBuffer:
    __slots__ = ()

    def __call__(self, content: Any, dtype: _Dtype, shape: Any, order: str) -> _Array:
        array = _Array()
        array.value = _shaped(content, dtype, shape, order)
        return array


class _Encode:
    """`codecs.encode(text, "latin1")`, the form of bytes in old protocols."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str = "latin1") -> bytes:
        if encoding != "latin1":
            raise _Refused(f"bytes coded as {encoding}")
        return text.encode("latin1")


class _NoBytes:
    """`bytes()`, which is how old protocols write that there are none."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


# Instances without attributes: a pickle can change neither them nor what they do.
_KNOWN = {
    ("numpy", "ndarray"): _NdArray(),
    ("numpy", "dtype"): _MakeDtype(),
    ("_codecs", "encode"): _Encode(),
    ("builtins", "bytes"): _NoBytes(),
    ("__builtin__", "bytes"): _NoBytes(),
} | {
    (f"numpy.{core}.{module}", name): maker
    for core in ("core", "_core")
    for module, name, maker in (
        ("multiarray", "_reconstruct", _Reconstruct()),
        ("multiarray", "scalar", _Scalar()),
        ("numeric", "_frombuffer", _FromBuffer()),
    )
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _Refused(f"a {module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("a reference to something outside of the file")


def _shaped(content: Any, dtype: _Dtype, shape: Any, order: str) -> np.ndarray:
    """The array over these bytes, which Python 2 files hand over as text."""
    if dtype.objects:
        raise _Refused("an array of objects in raw bytes")
    raw = content.encode("latin1") if isinstance(content, str) else memoryview(content)
    kind, size = dtype.numpy(), math.prod(shape)
    if len(raw) != size * kind.itemsize:
        raise ValueError(f"{len(raw)} bytes for an array of shape {tuple(shape)} of {kind}")
    array = np.frombuffer(raw, kind) if size else np.empty(0, kind)
    return array.reshape(shape, order="F" if order == "F" else "C")


def _plain(value: Any, depth: int = 0) -> Any:
    """With finished arrays in place of those in the making."""
    if depth > 8:
        raise ValueError("nested more than eight deep")
    if isinstance(value, _Array):
        return _plain(value.value, depth + 1)
    if isinstance(value, dict):
        return {_plain(k, depth + 1): _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(v, depth + 1) for v in value)
    if (
        isinstance(value, str | bytes | bytearray | int | float | bool | np.ndarray)
        or value is None
    ):
        return value
    raise _Refused(f"a {type(value).__name__.strip('_')}")

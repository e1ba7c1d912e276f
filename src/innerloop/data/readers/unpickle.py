"""Pickle files of arrays, read without running anything that they hold.

A pickle names functions to call. Here `find_class` knows the few names that numpy arrays are
written with, and refuses every other before it is looked up. They stand for decoders of ours, not
for numpy's own: numpy's dtype can be told by a pickle that eight bytes are a pointer to an object,
and following that pointer is running code. Files written by Python 2 are read as well.

Before anything is built the file is looked through once, so that a small one cannot cost much: no
length in it exceeds the file, no memo slot comes before its turn, nothing is nested deep.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

KINDS = frozenset("biufSU?")
"""Type letters of arrays that are plain bytes: numbers, truth values and fixed-width texts."""

DEEPEST = 64
"""Levels of nesting that are read; a dictionary of lists of arrays has six."""

_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
"""Bytes that the length of an argument takes."""


def read_pickle(path: Path) -> Any:
    """What a pickle file holds: dictionaries, lists, tuples, texts, bytes, numbers, numpy arrays.

    Arrays hold numbers or texts; arrays of objects become lists. The arrays share the memory of the
    file's bytes and cannot be written to.

    Raises FileNotFoundError, and ValueError naming the file when it is damaged, is not a pickle,
    holds anything else, or would take much more memory or time than its size explains.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            _look_through(file, size)
            file.seek(0)
            return _Finished(size).value(_Unpickler(file, encoding="latin1").load())
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


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _Refused(f"a {module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Refused("a reference to something outside of the file")


class _Decoder:
    """What a name stands for. A pickle that sets its attributes is told off: nothing can change."""

    def __setstate__(self, state: Any) -> None:
        raise _Refused("an array of an unknown kind")


class _Dtype(_Decoder):
    """`numpy.dtype(letters)`, then its byte order."""

    def __init__(self, letters: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(letters, str):
            raise _Refused("an array of records")
        self.letters, self.order = letters.lstrip("|<>="), "="
        if self.letters[:1] not in KINDS | {"O"}:
            raise _Refused(f"an array of type {letters!r}")

    def __setstate__(self, state: Any) -> None:
        _, self.order, *records = state[:5]
        if records != [None, None, None]:
            raise _Refused("an array of records")

    @property
    def objects(self) -> bool:
        return self.letters.startswith("O")

    def shaped(self, content: Any, shape: Any, order: str) -> np.ndarray:
        """The array over these bytes, which Python 2 files hand over as text."""
        if self.objects:
            raise _Refused("an array of objects in raw bytes")
        raw = content.encode("latin1") if isinstance(content, str) else memoryview(content)
        kind, size = np.dtype(self.letters), math.prod(shape)
        if self.order != "|":
            kind = kind.newbyteorder(self.order)  # type: ignore[arg-type]
        if len(raw) != size * kind.itemsize:
            raise ValueError(f"{len(raw)} bytes for an array of shape {tuple(shape)} of {kind}")
        array = np.frombuffer(raw, kind) if size else np.empty(0, kind)
        return array.reshape(shape, order="F" if order == "F" else "C")


class _NdArray(_Decoder):
    """Stands for the class `numpy.ndarray`, which arrays are said to be of."""

    def __init__(self) -> None:
        raise _Refused("an array of an unknown kind")


class _Array(_Decoder):
    """An array in the making: numpy's `_reconstruct` makes an empty one, then comes its state."""

    def __init__(self, kind: Any, shape: Any = (0,), letter: Any = b"b", value: Any = None) -> None:
        if kind is not _NdArray:
            raise _Refused("a special kind of array")
        self.value = value

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        if not dtype.objects:
            self.value = dtype.shaped(content, shape, "F" if fortran else "C")
        elif len(shape) == 1 and isinstance(content, list):
            self.value = content
        else:
            raise _Refused("an array of objects with several axes")


class _FromBuffer(_Decoder):
    """`numpy._core.numeric._frombuffer`, how protocol 5 writes an array."""

    def __new__(cls, content: Any, dtype: _Dtype, shape: Any, order: str) -> Any:
        return _Array(_NdArray, value=dtype.shaped(content, shape, order))


class _Scalar(_Decoder):
    """`numpy._core.multiarray.scalar`."""

    def __new__(cls, dtype: _Dtype, content: Any = b"") -> Any:
        return dtype.shaped(content, (), "C").item()


class _Encode(_Decoder):
    """`codecs.encode(text, "latin1")`, the form of bytes in old protocols; the real one would
    import whatever codec it is told."""

    def __new__(cls, text: str, encoding: str = "latin1") -> Any:
        if encoding != "latin1":
            raise _Refused(f"bytes coded as {encoding}")
        return text.encode("latin1")


class _NoBytes(_Decoder):
    """`bytes()`, which is how old protocols write that there are none."""

    def __new__(cls) -> Any:
        return b""


_KNOWN: dict[tuple[str, str], type[_Decoder]] = {
    ("numpy", "ndarray"): _NdArray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encode,
    ("builtins", "bytes"): _NoBytes,
    ("__builtin__", "bytes"): _NoBytes,
}
for _core in ("core", "_core"):  # the older and the newer name of the same package
    _KNOWN[f"numpy.{_core}.multiarray", "_reconstruct"] = _Array
    _KNOWN[f"numpy.{_core}.multiarray", "scalar"] = _Scalar
    _KNOWN[f"numpy.{_core}.numeric", "_frombuffer"] = _FromBuffer


class _Op(NamedTuple):
    """What an opcode takes from the file and from the unpickler's stack."""

    name: str
    lines: int
    """Lines of text after it."""
    width: int
    """Bytes after it: its argument, or with `counted` the length of that."""
    counted: bool
    takes: int
    to_mark: bool
    """Takes everything down to the last mark, and that, before the `takes` below."""
    puts: int
    fills: bool
    """Puts what it takes into the lowest of it, which stays."""


def _op(code: pickletools.OpcodeInfo) -> _Op:
    width = 0 if code.arg is None else code.arg.n
    lines = 0 if width != pickletools.UP_TO_NEWLINE else 2 if code.name in _TWO_LINES else 1
    mark, before = pickletools.markobject, code.stack_before
    return _Op(
        code.name,
        lines,
        0 if lines else _LENGTHS.get(width, width),
        width in _LENGTHS,
        before.index(mark) if mark in before else len(before),
        mark in before,
        len(code.stack_after),
        code.name in _FILLS,
    )


_TWO_LINES = ("GLOBAL", "INST")
_FILLS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_GETS = ("GET", "BINGET", "LONG_BINGET")
_OPS = {code.code.encode("latin1"): _op(code) for code in pickletools.opcodes}


def _look_through(file: BinaryIO, size: int) -> None:
    """Raises ValueError for a pickle that would cost more than its size explains.

    Three kinds are known: a memo slot far ahead, for which CPython makes room up to it; a length
    that the file does not have; and tuples nested so deep that hashing one overflows the stack.
    Contents are skipped, so this takes no memory, and a few microseconds for each opcode: a
    minute at most for the largest published file, whose images take several to decode.
    """
    depth: list[int] = []  # of nesting, of what stands on the unpickler's stack; -1 is a mark
    memo: list[int] = []
    while (op := _OPS.get(file.read(1))) is not None:
        argument = _argument(file, op, size) if op.width or op.lines else len(memo)
        if op.name in _PUTS or op.name == "MEMOIZE":
            if depth[-1] < 0 or not 0 <= argument <= len(memo) + 1:  # Python 2 counts from 1
                raise ValueError(f"memo slot {argument} after {len(memo)} others")
            memo += [0] * (argument + 1 - len(memo))
            memo[argument] = depth[-1]
        elif op.name in _GETS:
            depth.append(memo[argument])
        elif op.name == "MARK":
            depth.append(-1)
        elif op.name == "STOP":
            return
        elif op.takes or op.to_mark:
            _move(depth, op)
        else:
            depth += [1] * op.puts
    raise ValueError("it ends early, or holds what is no opcode")


def _argument(file: BinaryIO, op: _Op, size: int) -> int:
    """Skip the argument of an opcode; the number that it is, if it is one."""
    if op.lines:
        text, *_ = [file.readline() for _ in range(op.lines)]
        return int(text) if op.name in ("PUT", "GET") else 0
    number = int.from_bytes(file.read(op.width), "little")
    if op.counted or op.name == "FRAME":
        left = size - file.tell()
        if number > left:
            raise ValueError(f"{number} bytes are announced where {left} are left")
        file.seek(number if op.counted else 0, 1)
    return number


def _move(depth: list[int], op: _Op) -> None:
    """What an opcode takes from the stack and puts there, as depths of nesting."""
    deepest = 0
    if op.to_mark:
        while (top := depth.pop()) != -1:
            deepest = max(deepest, top)
    for _ in range(op.takes - op.fills):
        deepest = max(deepest, depth.pop())
    if op.fills:
        depth[-1] = max(depth[-1], deepest + 1)
    else:
        depth += [deepest + 1] * op.puts
    if deepest >= DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")


class _Finished:
    """Puts finished arrays in place of those in the making.

    Every value that is reached took a byte of the file, unless lists are shared: twelve in one,
    twelve of those in another, and so on are few bytes and many values. So there may be as many
    values as bytes.
    """

    def __init__(self, size: int) -> None:
        self.left = size

    def value(self, raw: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError("lists that hold one another many times over")
        if isinstance(raw, _Array):
            return self.value(raw.value)
        if isinstance(raw, dict):
            return {self.value(k): self.value(v) for k, v in raw.items()}
        if isinstance(raw, list | tuple):
            return type(raw)(self.value(v) for v in raw)
        if raw is None or isinstance(
            raw, str | bytes | bytearray | int | float | bool | np.ndarray
        ):
            return raw
        raise _Refused(f"a {type(raw).__name__.strip('_')}")

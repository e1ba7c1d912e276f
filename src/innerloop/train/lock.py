"""One training process for each run's folder."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

log = logging.getLogger("innerloop")

LOCK = ".lock"
"""In the run's folder while it is trained: by whom."""

_OFFSET = 1 << 30
"""Windows locks bytes, and nobody else can read those: one far behind the text."""

_held: set[int] = set()


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Within the block this process alone trains in `run_dir`, which is made if it is not there.

    The system gives the lock back when the process ends, however it ends: none is ever stale.

    Raises:
        ValueError: another process trains in the folder; it is named.
        OSError: the folder cannot be written.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / LOCK
    handle = _open(path)
    try:
        _take(handle, run_dir)
        while not _is_at(handle, path):  # its last holder has just removed it
            os.close(handle)
            handle = _open(path)
            _take(handle, run_dir)
        os.truncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        _held.add(handle)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows keeps a file that is open
                path.unlink()
    finally:
        _held.discard(handle)
        os.close(handle)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _take(handle: int, run_dir: Path) -> None:
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(handle, _OFFSET, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
    except (BlockingIOError, PermissionError) as error:
        os.lseek(handle, 0, os.SEEK_SET)
        other = os.read(handle, 200).decode(errors="replace").strip() or "another process"
        raise ValueError(
            f"{run_dir} is being trained by {other}: wait for its end, or stop it, or choose "
            "another folder: --run DIR"
        ) from error
    except OSError as error:  # a file system without locks: train as if alone, but say so
        log.warning(
            "%s cannot be locked (%s): see to it that one process trains in it", run_dir, error
        )


def _forget() -> None:
    """A forked child holds no lock: its copy would outlive the parent's."""
    for handle in _held:
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

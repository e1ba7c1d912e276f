"""Files and folders that appear whole or not at all: the one place that writes them.

A draft is written beside its target, forced to the disk and renamed. A reader sees what was there
before or what is new, never a part, whatever happens in between: a full disk, Ctrl-C, SIGTERM. A
process that is killed outright leaves its draft; the next one that writes into the folder knows it
by its name and removes it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import platform
import re
import secrets
import shutil
import signal
import stat
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

OWN = frozenset({"config.yaml", "metrics.jsonl", "task.json", "checkpoints", "best"})
"""What a run's folder holds: a run is lost when one of them is overwritten by something else."""

FOREIGN_AGE = 24 * 3600
"""Seconds after which a draft of another computer counts as left behind."""

_DRAFT = re.compile(r"\.draft-([0-9a-f]{8})-([0-9]+)-[0-9a-f]+")
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_LIVE: set[str] = set()
"""Names of the drafts that this process is writing now."""

_ADVICE = {
    errno.ENOSPC: "free some space there, or write to another disk",
    errno.EDQUOT: "free some of your quota, or write to another disk",
    errno.EFBIG: "the limit on the size of files is too low for it (see `ulimit -f`)",
    errno.EROFS: "choose a folder that is not read-only",
    errno.EACCES: "choose a folder that you may write to, or change its permissions",
    errno.EPERM: "choose a folder that you may write to, or change its permissions",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "one of the folders in this path is a file: choose another path",
    errno.EEXIST: "something else was written there meanwhile: choose another path",
    errno.ENOTEMPTY: "something else was written there meanwhile: choose another path",
}


def write_bytes(path: str | Path, content: bytes, *, inside_run: bool = False) -> Path:
    """Write `content` to `path`, creating its folder; refusals and errors as in `replacing`."""
    with replacing(path, inside_run=inside_run) as draft:
        draft.write_bytes(content)
    return Path(path)


def write_text(path: str | Path, content: str, *, inside_run: bool = False) -> Path:
    """`write_bytes` of UTF-8 text, its line ends as they are."""
    return write_bytes(path, content.encode(), inside_run=inside_run)


def write_json(
    path: str | Path, content: Any, *, indent: int | None = None, inside_run: bool = False
) -> Path:
    """`write_text` of `content` as JSON; NaN and infinities, which JSON has no word for, are null.

    Raises: TypeError, before anything is written, for what JSON does not know.
    """
    text = json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)
    return write_text(path, text + "\n", inside_run=inside_run)


@contextlib.contextmanager
def replacing(path: str | Path, *, inside_run: bool = False) -> Iterator[Path]:
    """A draft, an empty file beside `path`, that takes the place of `path` when the block ends.

    Permissions follow the umask. When the block raises, the draft is removed and `path` is as it
    was. `inside_run=True` is for a run that writes its own files.

    Raises: ValueError as `check_file`; OSError, naming `path` and what to do, when it cannot be
    written.
    """
    path = Path(path)
    check_file(path, inside_run=inside_run)
    with _draft(path) as draft:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield draft
        _force(draft)
        os.replace(draft, path)


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A draft, an empty folder beside `path`, that becomes `path` when the block ends.

    Raises: ValueError as `check_folder`; OSError, naming `path` and what to do, when it cannot be
    written.
    """
    path = Path(path)
    check_folder(path)
    with _draft(path) as draft:
        draft.mkdir()
        yield draft
        for folder, _, files in os.walk(draft):
            for name in files:
                _force(Path(folder, name))
        if path.exists():
            path.rmdir()  # empty, as was checked; another system would not rename over it
        os.replace(draft, path)


def check_file(path: str | Path, *, inside_run: bool = False) -> None:
    """Refuse a target that a new file must not take the place of; call it before long work.

    Raises: ValueError unless `path` is absent or an ordinary file (no folder, link, device or
    pipe), and, without `inside_run`, if it is one of the files that make up a run.
    """
    path = Path(path)
    kind = _kind(path)
    if kind not in (None, "file"):
        raise ValueError(
            f"{path} is a {kind}, and only an ordinary file is replaced: give the path of a file "
            "that is new or may be overwritten."
        )
    run = None if inside_run else _run_of(path)
    if run is not None:
        raise ValueError(
            f"{path} belongs to the run {run}, which would be lost: give another path."
        )


def check_folder(path: str | Path) -> None:
    """Refuse a target that is not absent or an empty folder; call it before long work.

    Raises: ValueError that says what is there.
    """
    path = Path(path)
    kind = _kind(path)
    if kind not in (None, "folder"):
        raise ValueError(f"{path} is a {kind}, and a new folder is to be written: give another.")
    if kind == "folder" and any(path.iterdir()):
        raise ValueError(
            f"{path} exists and is not empty: nothing is overwritten. Give another folder, or "
            "remove it first."
        )
    run = _run_of(path)
    if run is not None:
        raise ValueError(f"{path} belongs to the run {run}: give another path.")


def clear_drafts(folder: str | Path) -> None:
    """Remove what killed processes have left in `folder`: drafts whose writer is no longer there.

    Every write does so in the folder that it writes to.
    """
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if _left_behind(entry):
                _remove(Path(entry.path))


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A name beside `path` that nobody has, gone when the block ends, with errors that say more."""
    name = f".draft-{_HOST}-{os.getpid()}-{secrets.token_hex(6)}"
    draft = path.parent / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_drafts(path.parent)
        with _ended_by_exceptions():
            _LIVE.add(name)
            try:
                yield draft
            finally:
                _LIVE.discard(name)
                _remove(draft)
        _force(path.parent)
    except OSError as error:
        _explain(error, path, draft)


@contextlib.contextmanager
def _ended_by_exceptions() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise SystemExit, so that drafts are removed.

    Only where they would end the process at once: a handler of the caller stays, and threads
    other than the main one may not set any.
    """
    before: dict[int, Any] = {}

    def leave(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finite(content: Any) -> Any:
    """The same with None in the place of numbers that are not finite."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    return [_finite(value) for value in content] if isinstance(content, list | tuple) else content


def _kind(path: Path) -> str | None:
    """What lies at `path`, links not followed; None where nothing does, or nobody can tell."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return None
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "symbolic link" if stat.S_ISLNK(mode) else "device, pipe or socket"


def _run_of(path: Path) -> Path | None:
    """The folder of the run that `path` is a part of, or None.

    A folder is taken for a run's where two of its parts are there: one alone may be anybody's.
    """
    whole = Path(os.path.realpath(path.parent), path.name)
    for part in (whole, *whole.parents):
        if part.name in OWN and sum(os.path.exists(part.parent / name) for name in OWN) > 1:
            return part.parent
    return None


def _left_behind(entry: os.DirEntry[str]) -> bool:
    """Whether this is a draft whose writer is gone."""
    found = _DRAFT.fullmatch(entry.name)
    if found is None or entry.name in _LIVE:
        return False
    host, process = found[1], int(found[2])
    if host == _HOST and os.name == "posix":
        return process == os.getpid() or not _runs(process)
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > FOREIGN_AGE


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _remove(draft: Path) -> None:
    if draft.is_dir() and not draft.is_symlink():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def _force(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder; not every system knows folders."""
    if path.is_dir():
        with contextlib.suppress(OSError):
            _fsync(path, os.O_RDONLY)
    else:
        _fsync(path, os.O_RDWR)


def _fsync(path: Path, mode: int) -> None:
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _explain(error: OSError, path: Path, draft: Path) -> NoReturn:
    """The same error, saying what could not be written and what to do.

    An error of another file, in a block that reads some, is left as it is.
    """
    named = str(draft if error.filename is None else error.filename)
    if named != str(path) and not named.startswith(str(draft)) and Path(named) not in draft.parents:
        raise error
    advice = _ADVICE.get(error.errno or 0)
    what = error.strerror or str(error)
    told = type(error)(f"cannot write {path}: {what}" + (f"; {advice}" if advice else ""))
    told.errno = error.errno
    raise told from error

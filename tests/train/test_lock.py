"""One training process for each folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from innerloop.train.lock import LOCK, locked

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes fork on POSIX systems")

HOLDER = """
import sys, time
from pathlib import Path
from innerloop.train.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_the_second_is_refused_in_one_line_that_names_the_first(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "locked\n"
        refused = pytest.raises(ValueError, match=rf"trained by process {holder.pid} on ")
        with refused as error, locked(tmp_path):
            pass
        assert "\n" not in str(error.value)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with locked(tmp_path):  # a lock does not outlive its process, nor does its text count
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()


def test_it_is_taken_and_given_back(tmp_path: Path) -> None:
    run = tmp_path / "new" / "run"
    for _ in range(2):
        with locked(run), pytest.raises(ValueError, match="another folder"), locked(run):
            pass
        assert not list(run.iterdir())


@fork
def test_a_forked_child_does_not_keep_it(tmp_path: Path) -> None:
    with locked(tmp_path):
        child = os.fork()
        if child == 0:  # lives on after the lock is given back
            signal.pause()
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file"):
        pass


def test_a_lock_that_is_just_removed_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last holder removes it between our opening and our locking: ours is then a ghost."""
    from innerloop.train import lock

    take, removed = lock._take, []

    def slow(handle: int, run_dir: Path) -> None:
        if not removed:
            (run_dir / LOCK).unlink()
            removed.append(handle)
        take(handle, run_dir)

    monkeypatch.setattr(lock, "_take", slow)
    with locked(tmp_path), pytest.raises(ValueError, match="is being trained"), locked(tmp_path):
        pass
    assert removed

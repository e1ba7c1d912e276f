"""A file or folder is there whole, or as it was before."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from innerloop.core import files
from innerloop.core.files import (
    check_file,
    check_folder,
    new_folder,
    replacing,
    write_bytes,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def test_writes_and_replaces(tmp_path: Path, umask: Callable[[int], int]) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "eins äöü")
    assert write_text(path, "zwei\r\n") == path
    assert path.read_bytes() == b"zwei\r\n"
    assert names(path.parent) == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_json(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"ä": [1, None]}, indent=2)
    assert json.loads(path.read_text(encoding="utf-8")) == {"ä": [1, None]}
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"a": path})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ä": [1, None]}
    write_json(path, {"a": [(1.5, float("nan")), -float("inf")], "b": {"c": float("inf")}})
    assert json.loads(path.read_text()) == {"a": [[1.5, None], None], "b": {"c": None}}


def test_the_umask_is_kept(tmp_path: Path, umask: Callable[[int], int]) -> None:
    umask(0o077)
    assert write_bytes(tmp_path / "private", b"x").stat().st_mode & 0o777 == 0o600
    with new_folder(tmp_path / "folder") as draft:
        (draft / "a").write_text("x")
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700


def test_a_folder_comes_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("there", "new"):
        with new_folder(tmp_path / name) as draft:
            (draft / "deep").mkdir()
            (draft / "deep" / "a").write_text("x")
            assert not (tmp_path / name / "deep").exists()
        assert (tmp_path / name / "deep" / "a").read_text() == "x"
    with pytest.raises(KeyError), new_folder(tmp_path / "never") as draft:
        (draft / "a").write_text("x")
        raise KeyError
    assert names(tmp_path) == ["new", "there"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match=r"file\.bin: No space left on device; free some") as caught:
        write_bytes(path, b"new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


def test_what_the_block_could_not_write_is_named_as_the_target(tmp_path: Path) -> None:
    def refuse(draft: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(draft / "inside"))

    with (
        pytest.raises(PermissionError, match=r"cannot write .*out: Permission denied; choose a"),
        new_folder(tmp_path / "out") as draft,
    ):
        refuse(draft)
    with (
        pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*input'"),
        replacing(tmp_path / "out"),
    ):
        (tmp_path / "input").read_bytes()
    assert names(tmp_path) == []


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write .*below"):
        write_bytes(tmp_path / "file" / "below", b"x")
    with pytest.raises(OSError, match="choose a shorter name"):
        write_bytes(tmp_path / ("x" * 300), b"x")
    assert names(tmp_path) == ["file"]


def test_only_ordinary_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("mine")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "loose").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, what in (
        ("link", "symbolic link"),
        ("loose", "symbolic link"),
        ("folder", "folder"),
        ("pipe", "pipe"),
    ):
        for check in (check_file, lambda path: write_bytes(path, b"x")):
            with pytest.raises(ValueError, match=f"{what}.* only an ordinary file"):
                check(tmp_path / name)
    with pytest.raises(ValueError, match=r"device.* only an ordinary file"):
        check_file("/dev/null")
    assert (tmp_path / "real").read_text() == "mine"
    assert names(tmp_path) == ["folder", "link", "loose", "pipe", "real"]


def test_only_empty_folders_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "link").symlink_to("full")
    with pytest.raises(ValueError, match="exists and is not empty: nothing is overwritten"):
        check_folder(tmp_path / "full")
    with pytest.raises(ValueError, match="is a symbolic link"), new_folder(tmp_path / "link"):
        pass
    with pytest.raises(ValueError, match="is a file"):
        check_folder(tmp_path / "full" / "thesis.txt")


def test_the_loser_of_a_race_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OSError, match="something else was written there meanwhile"):  # noqa: SIM117
        with new_folder(out) as draft:
            (draft / "a").write_text("second")
            with new_folder(out) as other:
                (other / "a").write_text("first")
    assert (out / "a").read_text() == "first"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "checkpoints/new", "best/x/y"])
def test_a_run_is_never_overwritten(tmp_path: Path, name: str) -> None:
    for part in ("config.yaml", "metrics.jsonl"):
        (tmp_path / part).write_text("precious")
    with pytest.raises(ValueError, match=r"belongs to the run .*, which would be lost"):
        write_text(tmp_path / name, "report")
    with pytest.raises(ValueError, match=r"belongs to the run|is a file"):
        check_folder(tmp_path / name)
    assert (tmp_path / "config.yaml").read_text() == "precious"
    write_text(tmp_path / name, "of the run", inside_run=True)
    write_text(tmp_path / "report.html", "beside")
    assert (tmp_path / name).read_text() == "of the run"


def test_words_that_runs_use_are_free_elsewhere(tmp_path: Path) -> None:
    write_text(tmp_path / "config.yaml", "a: 1")
    write_text(tmp_path / "config.yaml", "a: 2")
    write_text(tmp_path / "other" / "best" / "x.json", "{}")


def test_leftovers_of_the_dead_go_and_drafts_of_the_living_stay(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    alive, host = os.getppid(), files._HOST
    other = f"{int(host, 16) ^ 1:08x}"
    for left in (f".draft-{host}-{gone.pid}-ab", f".draft-{host}-{os.getpid()}-ab"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "a").write_text("x")
    old, fresh = f".draft-{other}-1-ab", f".draft-{other}-1-cd"
    kept = [f".draft-{host}-{alive}-ab", fresh, ".draft-notes", "draft"]
    for name in [*kept, old]:
        (tmp_path / name).write_text("x")
    long_ago = time.time() - files.FOREIGN_AGE - 60
    os.utime(tmp_path / old, (long_ago, long_ago))
    with replacing(tmp_path / "a") as outer:
        write_text(tmp_path / "b", "clears what is left")
        assert outer.exists(), "its own draft, still being written"
    assert names(tmp_path) == sorted([*kept, "a", "b"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_leave_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    program = """
        import pathlib, sys, time
        from innerloop.core.files import new_folder
        with new_folder(sys.argv[1]) as draft:
            (draft / "a").write_text("x")
            print("ready", flush=True)
            time.sleep(60)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        child.send_signal(number)
        assert child.wait(30) != 0
    assert names(tmp_path) == []


def test_handlers_of_the_caller_stay(tmp_path: Path) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with replacing(tmp_path / "a") as draft:
            os.kill(os.getpid(), signal.SIGTERM)
            draft.write_text("x")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM] and (tmp_path / "a").read_text() == "x"
    with replacing(tmp_path / "a"):
        pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_may_write(tmp_path: Path) -> None:
    threads = [threading.Thread(target=write_text, args=(tmp_path / "a", str(i))) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() in map(str, range(8))

"""Drawing tasks from a prepared data set on disk: rate and memory, page cache cold and warm.

Two made-up sets, of 3x84x84 and of 3x180x180 images, are written one after the other with
`PoolWriter`, in a folder that is removed at the end. 5-way 5-shot tasks with 15 queries per class
are drawn from each, four at a time, in a process of its own: first after the set has been dropped
from the page cache, then the same tasks again. What came from disk is counted by the kernel
(read_bytes of /proc/self/io). Memory is RssAnon of /proc/self/status: what only this process can
give back; mapped pages of the file (RssFile) are the system's to take when memory is short.

Run: python benchmarks/throughput.py                (Linux, 10 GB of disk, about two minutes)
     python benchmarks/throughput.py --folder DIR --gigabytes 2 --keep
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench import heading, table, write

from innerloop.core.streams import generator
from innerloop.data.cache import cache_folder
from innerloop.data.images.episodes import Episodes
from innerloop.data.mapped import MappedRows
from innerloop.data.pool_writer import IMAGES, PoolWriter
from innerloop.data.prepared import open_prepared

SIDES, CLASSES, TASKS, DRAWS = (84, 180), 1000, 4, 50
WAY, SHOT, QUERIES = 5, 5, 15
PER_TASK = WAY * (SHOT + QUERIES)
LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
TITLE = "Tasks from a prepared data set on disk"


@dataclass
class Written:
    """How a set was written."""

    images: int
    bytes: int
    seconds: float
    grown: int


@dataclass
class Drawn:
    """How tasks were drawn from it: seconds of each draw, memory over base, bytes from disk."""

    seconds: list[float]
    grown: int
    mapped: int
    from_disk: int


def kilobytes(file: str, key: str) -> int:
    """One number of /proc/self/FILE, as it stands there."""
    for line in Path(f"/proc/self/{file}").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise SystemExit(f"no {key} in /proc/self/{file}: this benchmark needs Linux")


def make(folder: Path, side: int, size: float) -> Written:
    """A set of about `size` bytes: noise, shifted from class to class."""
    per_class = max(SHOT + QUERIES, round(size / (CLASSES * 3 * side * side)))
    shape = (per_class, 3, side, side)
    noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(0, "noise"))
    base = kilobytes("status", "RssAnon")
    grown, start = 0, time.perf_counter()
    with PoolWriter(folder, name="noise") as out:
        for k in range(CLASSES):
            out.add(f"class {k}", noise + k % 256)
            grown = max(grown, kilobytes("status", "RssAnon") - base)
    seconds = time.perf_counter() - start
    return Written(CLASSES * per_class, (folder / IMAGES).stat().st_size, seconds, 1024 * grown)


def drop(path: Path) -> None:
    """Take a file out of the page cache; no process may have it mapped."""
    if not hasattr(os, "posix_fadvise"):
        raise SystemExit("this system cannot drop a file from its page cache: no posix_fadvise")
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def draw(folder: Path, cold: bool) -> list[Drawn]:
    """With `cold` the tasks twice, first with the set out of the page cache; else once."""
    torch.set_num_threads(1)
    if cold:
        drop(folder / IMAGES)
    base = kilobytes("status", "RssAnon")
    source = Episodes(open_prepared(folder).pool, way=WAY, shot=SHOT, queries=QUERIES)
    assert isinstance(source.pool.images, MappedRows)
    return [drawn(source, base) for _ in range(2 if cold else 1)]


def drawn(source: Episodes, base: int) -> Drawn:
    """The same tasks whenever this is called."""
    seconds, grown = [], 0
    before = kilobytes("io", "read_bytes")
    for i in range(DRAWS):
        start = time.perf_counter()
        tasks = source.sample(generator(0, "benchmark", i), TASKS)
        seconds.append(time.perf_counter() - start)
        grown = max(grown, kilobytes("status", "RssAnon") - base)
        del tasks
    disk = kilobytes("io", "read_bytes") - before
    return Drawn(seconds, 1024 * grown, 1024 * kilobytes("status", "RssFile"), disk)


def row(side: int, state: str, found: Drawn) -> list[str]:
    """One line of the table."""
    stored = TASKS * PER_TASK * 3 * side * side
    mean = statistics.mean(found.seconds)
    width = 1.96 * statistics.stdev(found.seconds) / DRAWS**0.5
    return [
        f"3x{side}x{side}",
        state,
        f"{TASKS / mean:.0f}",
        f"{stored / mean / 1e6:.0f}",
        f"{1000 * mean:.1f} ± {1000 * width:.1f}",
        f"{found.from_disk / (DRAWS * stored):.2f}",
        f"{found.grown / 2**20:.0f} MiB",
        f"{5 * stored / 2**20:.0f} MiB",
        f"{found.mapped / 2**20:.0f} MiB",
    ]


HEADER = [
    *("images", "page cache", "tasks/s", "MB/s", "ms per draw", "read from disk / drawn"),
    *("memory over base", "one draw (bytes and floats)", "mapped pages"),
]


def apart(
    function: Callable[..., Any], *arguments: object, environment: Mapping[str, str] | None = None
) -> Any:
    """`function(*arguments)` in a fresh process."""
    before = dict(os.environ)
    os.environ.update(environment or {})
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(function, arguments)
    finally:
        os.environ.clear()
        os.environ.update(before)


def measure(folder: Path, size: float, keep: bool) -> list[str]:
    """The lines of the result; each set is removed as soon as it has been drawn from."""
    written, rows = [], []
    for side in SIDES:
        place = folder / f"side-{side}"
        made = apart(make, place, side, size)
        cold, warm = apart(draw, place, True)
        large = apart(draw, place, False, environment={LARGE_PAGES: "1"})
        if not keep:
            shutil.rmtree(place)
        written.append(
            f"- 3x{side}x{side}: {made.images} images, {made.bytes / 1e9:.2f} GB, made, written "
            f"and synced in {made.seconds:.0f} s ({made.bytes / made.seconds / 1e6:.0f} MB/s) with "
            f"{made.grown / 2**20:.0f} MiB of memory over base."
        )
        found = {"cold": cold, "warm": warm, "warm, large pages": large[0]}
        rows += [row(side, state, each) for state, each in found.items()]
    return [*written, "", *table(HEADER, rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Drawing tasks from a prepared set on disk")
    parser.add_argument("--folder", type=Path, help="where to write; default: the user's cache")
    parser.add_argument("--gigabytes", type=float, default=10.0, help="size of each set")
    parser.add_argument("--keep", action="store_true", help="do not remove the sets")
    options = parser.parse_args()
    parent = cache_folder() if options.folder is None else options.folder.expanduser()
    parent.mkdir(parents=True, exist_ok=True)
    size = 1e9 * options.gigabytes
    needed, free = 1.1 * size * (len(SIDES) if options.keep else 1), shutil.disk_usage(parent).free
    if free < needed:
        raise SystemExit(
            f"{parent} has {free / 1e9:.1f} GB, {needed / 1e9:.1f} GB are needed; make room, or "
            "use --folder DIR or --gigabytes"
        )
    folder = Path(tempfile.mkdtemp(prefix="throughput-", dir=parent))
    load = os.getloadavg()[0]
    try:
        lines = measure(folder, size, options.keep)
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    facts = (
        f"One process, one thread; load average of the machine when it began: {load:.1f}. {DRAWS} "
        f"draws of {TASKS} tasks, {WAY}-way {SHOT}-shot + {QUERIES} queries per class ({PER_TASK} "
        "images a task), float32 out; mean ± 95 % interval over draws. MB/s counts the stored "
        "bytes of the images drawn. Cold is after posix_fadvise(DONTNEED) on the whole file; the "
        "disk itself may have a cache of its own (this one is virtual). Warm is the same tasks "
        f"again; with large pages, under {LARGE_PAGES}=1, with which PyTorch asks Linux for pages "
        "of 2 MiB."
    )
    words = " ".join(["python benchmarks/throughput.py", *sys.argv[1:]])
    write("throughput.md", [*heading(TITLE, words, facts), *lines])


if __name__ == "__main__":
    main()

"""Two revisions of the library in turns: time of one meta-gradient, peak memory of the process.

    python benchmarks/revisions.py OLD NEW [ROW-ENGINE …]     folders of two checkouts

Each cell has one process per revision; they wait for each other and measure in turns, so that what
else the machine does meets both. Time is the median over turns of the fastest call of a turn; the
ratio is that of the old time to the new one: above one, the new revision is faster. Peak memory is
the largest resident set of the whole process, its first call and its imports included. Writes
benchmarks/results/revisions.md.
"""

from __future__ import annotations

import datetime
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

CELLS = (
    "sine-eager", "sine-traced", "sine-compiled", "omni1-eager", "omni1-traced", "omni5-eager",
    "omni5-traced", "mini-eager", "mini-traced", "deep-eager", "deep-traced",
)  # fmt: skip
TURNS = 9
SECONDS = 1.0
"""Of one turn, at least; a turn has at least two calls."""
RESULT = Path(__file__).parent / "results" / "revisions.md"


def serve(checkout: str, cell: str) -> None:
    """One process: answer every line with the fastest call of a turn, then say the peak memory."""
    sys.path[:0] = [f"{checkout}/src", f"{checkout}/benchmarks"]
    import torch
    from speed_rows import ROWS  # of this checkout

    from innerloop import methods

    name, _, engine = cell.partition("-")
    row = ROWS[name]
    torch.manual_seed(0)
    model, tasks = row.model(), row.tasks()
    method = methods.maml(model, lr=row.lr, steps=row.steps, loss=row.loss).use(engine)
    for _ in range(3):
        method.meta_gradient(tasks)
    print("ready", flush=True)
    for _ in sys.stdin:
        best, began, calls = float("inf"), time.perf_counter(), 0
        while calls < 2 or time.perf_counter() - began < SECONDS:
            start = time.perf_counter()
            method.meta_gradient(tasks)
            best, calls = min(best, time.perf_counter() - start), calls + 1
        print(best, flush=True)
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")), flush=True)


def measure(old: str, new: str, cell: str) -> str:
    """One row of the table."""
    command = [sys.executable, __file__, "--serve"]
    processes = [
        subprocess.Popen(
            [*command, checkout, cell],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
        )
        for checkout in (old, new)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(TURNS):
        for process, seen in zip(processes, times, strict=True):
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            seen.append(float(process.stdout.readline()))
    peaks = [int(process.communicate()[0]) / 1024 for process in processes]
    before, after = (1000 * statistics.median(seen) for seen in times)
    ratios = sorted(a / b for a, b in zip(*times, strict=True))
    return (
        f"| {cell} | {before:.3f} | {after:.3f} | {statistics.median(ratios):.3f} "
        f"({ratios[1]:.3f} to {ratios[-2]:.3f}) | {peaks[0]:.0f} | {peaks[1]:.0f} |"
    )


def main(words: list[str]) -> None:
    if words[:1] == ["--serve"]:
        return serve(*words[1:])
    if len(words) < 2:
        raise SystemExit(__doc__)
    old, new, *cells = words
    lines = [
        "# The revision before against this one, in turns",
        "",
        f"`python benchmarks/revisions.py OLD NEW`; {datetime.date.today()}, {os.cpu_count()} CPU "
        f"cores, two threads, float32, {TURNS} turns. Above 1 the new one is faster; in "
        "brackets without the two most extreme turns.",
        "",
        "| row, engine | old, ms | new, ms | old / new | old, MiB | new, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for cell in cells or CELLS:
        lines.append(measure(old, new, cell))
        print(lines[-1], flush=True)
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

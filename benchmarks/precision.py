"""What bfloat16 costs in exactness and saves in time, on the rows of the speed benchmark.

Run: python benchmarks/precision.py    (a minute on two cores)
"""

from __future__ import annotations

import statistics
import time

import torch
from bench import heading, table, takes_no_options, write
from speed_engines import relative_error
from speed_rows import ROWS

from innerloop import Method, Task, methods

CHOSEN = ("sine", "omni1", "omni5", "transformer")
REPEATS = 7


def seconds(method: Method, tasks: Task) -> float:
    """The median of some meta-gradients, after one that is not counted."""
    method.meta_gradient(tasks)
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        method.meta_gradient(tasks)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    lines = []
    for name in CHOSEN:
        row = ROWS[name]
        torch.manual_seed(0)
        model, tasks = row.model(), row.tasks()
        made = [
            methods.maml(model, lr=row.lr, steps=row.steps, loss=row.loss).use(
                "traced", precision=precision
            )
            for precision in ("float32", "bfloat16")
        ]
        exact, found = (list(m.meta_gradient(tasks).grads.values()) for m in made)
        a, b = (torch.cat([g.flatten() for g in grads]) for grads in (exact, found))
        times = [seconds(m, tasks) for m in made]
        lines.append(
            [
                name,
                row.describe(),
                f"{relative_error(found, exact):.1%}",
                f"{float(a @ b / (a.norm() * b.norm())):.4f}",
                *(f"{1e3 * t:.1f}" for t in times),
            ]
        )
    text = heading(
        "The meta-gradient in bfloat16",
        "python benchmarks/precision.py",
        f"Engine `traced`, {torch.get_num_threads()} threads. Error and cosine of the whole "
        "meta-gradient against the same method in float32, seed 0, at the initial weights.",
    )
    columns = ["row", "what", "error", "cosine", "ms float32", "ms bfloat16"]
    write("precision.md", [*text, *table(columns, lines)])


if __name__ == "__main__":
    takes_no_options(__doc__)
    main()

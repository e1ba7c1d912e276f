"""One training step on 1 and 2 workers, what its parts cost, and what follows for many more.

The row `omni1` of the speed benchmark: Conv4-64 with strides, 28x28, 5-way 1-shot + 15 queries per
class, 32 tasks, one inner step, exact MAML, float32; tasks are drawn from noise of Omniglot's size.
A step is a whole outer step: draw, meta-gradient, all-reduce, Adam. Every arrangement runs in
processes of its own, in two rounds. The prediction for 2 workers uses what one worker and bare
all-reduces took; the last table puts the same formula to sizes that are not here to be measured.

Run: python benchmarks/scale.py      (about two minutes; nothing else should run)
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from bench import heading, table, takes_no_options, write
from episodes import five_way, made_up

from innerloop import methods
from innerloop.core.streams import generator
from innerloop.models import Conv4
from innerloop.train.outer import OuterOptimizer
from innerloop.train.ranks import Ranks, spawn
from innerloop.train.settings import Settings

TASKS, LR = 32, 0.4
MANY = 3200
"""Tasks of a meta-batch of which one is taken: what that takes is the choice of all of them."""
STEPS, ROUNDS, WARM_UP = 8, 2, 2
ARRANGEMENTS = {
    "1 worker, 1 thread": (1, 1),
    "1 worker, 2 threads": (1, 2),
    "2 workers, 1 thread each": (2, 1),
}
FLOATS = {10**5: 40, 10**6: 20, 10**7: 6, 10**8: 3}
"""Sizes of bare all-reduces, and how often each is timed."""
Samples = dict[str, list[float]]


@dataclass(frozen=True)
class Machine:
    """What a step costs in seconds: `fixed`, `task` per own task, `choice` per task of all, Adam.

    Every rank chooses the images of all tasks and reads those of its own. An all-reduce takes `hop`
    per message and `rate` bytes per second and direction.
    """

    fixed: float
    task: float
    choice: float
    adam: float
    hop: float
    rate: float

    def all_reduce(self, ranks: int, parameters: float) -> float:
        """A ring: 2 (N - 1) messages one after another, 2 (N - 1) / N · 4 |θ| bytes per rank."""
        return 2 * (ranks - 1) * (self.hop + 4 * parameters / ranks / self.rate)

    def step(self, ranks: int, tasks: int, parameters: float) -> float:
        """Seconds of one outer step; the rank with most tasks sets the pace."""
        own = -(-tasks // ranks)
        computed = self.fixed + self.task * own + self.choice * tasks + self.adam
        return computed + self.all_reduce(ranks, parameters)


def seconds(run: Callable[[], object], repeats: int, ranks: Ranks) -> list[float]:
    """Times of `run`, all ranks beginning together."""
    for _ in range(WARM_UP):
        run()
    taken = []
    for _ in range(repeats):
        ranks.wait()
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


def steps(ranks: Ranks, folder: Path, name: str, threads: int) -> None:
    """Time whole steps, and the parts of them that need no other rank."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    method = methods.maml(Conv4(5), lr=LR, steps=1)
    outer = OuterOptimizer(method, Settings())
    source, stream = five_way(made_up(1100, 20, 1, 28)), generator(0, "scale")
    tasks = source.sample(stream, TASKS)
    own, found = ranks.own(tasks), method.meta_gradient(tasks)

    def step() -> None:
        mine = ranks.draw(source, stream, TASKS)
        shared = ranks.mean(method.meta_gradient(mine), TASKS)
        outer.update(shared, 0.0, "in a benchmark")

    told: Samples = {"step": seconds(step, STEPS, ranks)}
    if threads == 1:
        told["own tasks"] = seconds(lambda: method.meta_gradient(own), STEPS, ranks)
    if ranks.size == threads == 1:
        half = Ranks(0, 2).own(tasks)
        told["half the tasks"] = seconds(lambda: method.meta_gradient(half), STEPS, ranks)
        told["draw"] = seconds(lambda: source.sample(stream, TASKS), 20, ranks)
        told["choose"] = seconds(lambda: source.rows(stream, MANY, 0, 1), 20, ranks)
        told["adam"] = seconds(lambda: outer.update(found, 0.0, "in a benchmark"), 20, ranks)
    tell(ranks, folder, name, told)


def bare(ranks: Ranks, folder: Path, name: str) -> None:
    """Time all-reduces of nothing but floats."""
    told = {}
    for floats, repeats in {1: 200, **FLOATS}.items():
        values = torch.ones(floats)
        told[str(floats)] = seconds(lambda values=values: ranks.add_up(values), repeats, ranks)
    tell(ranks, folder, name, told)


def tell(ranks: Ranks, folder: Path, name: str, told: Samples) -> None:
    """The first rank's samples as a file."""
    if ranks.first:
        (folder / name).write_text(json.dumps(told), encoding="utf-8")


def gathered(folder: Path) -> tuple[dict[str, Samples], dict[int, float]]:
    """Samples of every arrangement over both rounds, and the median of each bare all-reduce."""
    samples: dict[str, Samples] = {name: {} for name in ARRANGEMENTS}
    for _ in range(ROUNDS):
        for name, (workers, threads) in ARRANGEMENTS.items():
            spawn(workers, steps, folder, "told", threads)
            for what, taken in json.loads((folder / "told").read_text(encoding="utf-8")).items():
                samples[name].setdefault(what, []).extend(taken)
    spawn(2, bare, folder, "told")
    told = json.loads((folder / "told").read_text(encoding="utf-8"))
    return samples, {int(k): statistics.median(v) for k, v in told.items()}


def fitted(alone: Samples, reduced: dict[int, float], parameters: int) -> Machine:
    """The parts, from one worker and from bare all-reduces."""
    middle = {what: statistics.median(taken) for what, taken in alone.items()}
    task = (middle["own tasks"] - middle["half the tasks"]) / (TASKS / 2)
    choice = middle["choose"] / MANY
    # The bytes' rate at the nearest size measured, which is not that of large messages.
    size = min(FLOATS, key=lambda floats: abs(floats - parameters))
    rate = 4 * size / (reduced[size] - reduced[1])
    return Machine(
        fixed=middle["own tasks"] - task * TASKS,
        task=task + max(0.0, middle["draw"] / TASKS - choice),
        choice=choice,
        adam=middle["adam"],
        hop=reduced[1] / 2,
        rate=rate,
    )


def quartiles(taken: list[float]) -> str:
    """Median and quartiles in ms."""
    low, middle, high = statistics.quantiles(taken, n=4)
    return f"{1e3 * middle:.0f} ({1e3 * low:.0f}–{1e3 * high:.0f})"


def measured(samples: dict[str, Samples], machine: Machine, parameters: int) -> list[str]:
    """Steps beside their prediction."""
    alone = statistics.median(samples["1 worker, 1 thread"]["step"])
    rows = []
    for name, (workers, threads) in ARRANGEMENTS.items():
        taken = samples[name]["step"]
        step = statistics.median(taken)
        predicted = machine.step(workers, TASKS, parameters)
        rows.append(
            [
                name,
                quartiles(taken),
                f"{TASKS / step:.0f}",
                f"{alone / step:.2f}",
                f"{1e3 * predicted:.0f}" if threads == 1 else "–",
                f"{step / predicted:.2f}" if threads == 1 else "–",
                quartiles(samples[name]["own tasks"]) if threads == 1 else "–",
            ]
        )
    header = ["arrangement", "ms per step", "tasks/s", "speed-up", "predicted ms"]
    return table([*header, "measured / predicted", "own meta-gradient alone, ms"], rows)


def links(reduced: dict[int, float]) -> list[str]:
    """Bare all-reduces between two processes."""
    rows = [["1", f"{1e3 * reduced[1]:.3f}", "–"]]
    for floats in FLOATS:
        sent = 4 * floats / reduced[floats]  # 2 (N - 1) / N = 1 for two ranks
        rows.append(
            [f"10^{len(str(floats)) - 1}", f"{1e3 * reduced[floats]:.3g}", f"{sent / 1e9:.2f}"]
        )
    return table(["floats", "ms", "GB/s sent by each rank"], rows)


GPU_FLOPS, GPU_HOP, GPU_RATE = 1e14, 1e-5, 4e10
EXAMPLES, SHOTS = 75, 25
"""Assumed for the last table: sustained rate, message and link of a rank; 5-way 5-shot tasks."""


def assumed(parameters: float, choice: float) -> Machine:
    """A GPU that nobody has measured here: 2 |θ| operations per example, one inner step.

    A gradient costs three forward passes, a Hessian-vector product 2.2 gradients; Adam reads and
    writes 28 bytes per parameter at 2 TB/s.
    """
    gradient = 3 * 2 * parameters
    operations = gradient * (EXAMPLES + SHOTS + 2.2 * SHOTS)
    return Machine(0.0, operations / GPU_FLOPS, choice, 28 * parameters / 2e12, GPU_HOP, GPU_RATE)


def on_paper(here: Machine, parameters: int) -> list[str]:
    """Efficiency when every rank has as many tasks as this row has on one."""
    rows = []
    for about, size, machine in (
        ("a core of this machine, omni1", float(parameters), here),
        *(
            (f"assumed GPU, |θ| = 10^{p}", 10.0**p, assumed(10.0**p, here.choice))
            for p in (7, 8, 9)
        ),
    ):
        alone = machine.step(1, TASKS, size)
        for ranks in (8, 64, 1000):
            step = machine.step(ranks, TASKS * ranks, size)
            rows.append(
                [
                    about,
                    str(ranks),
                    f"{alone:.3g}",
                    f"{machine.all_reduce(ranks, size):.3g}",
                    f"{machine.choice * TASKS * ranks:.2g}",
                    f"{alone / step:.0%}",
                    f"{12 * size / 1e9:.3g}",
                ]
            )
    header = ["each rank", "ranks", "step on 1 rank, s", "all-reduce, s", "choice, s", "efficiency"]
    return table([*header, "checkpoint, GB"], rows)


def main() -> None:
    parameters = sum(p.numel() for p in Conv4(5).parameters())
    with tempfile.TemporaryDirectory() as folder:
        samples, reduced = gathered(Path(folder))
    here = fitted(samples["1 worker, 1 thread"], reduced, parameters)
    two, threaded = (
        statistics.median(samples[name]["step"])
        for name in ("2 workers, 1 thread each", "1 worker, 2 threads")
    )
    lines = heading(
        "One step on 1 and 2 workers, and on paper on many",
        "python benchmarks/scale.py",
        f"Conv4-64 with strides ({parameters} parameters), 28x28, 5-way 1-shot + 15 queries, "
        f"{TASKS} tasks, 1 inner step, exact, float32; {ROUNDS} rounds of {STEPS} steps in fresh "
        "processes, median (quartiles); gloo over the loopback.",
    )
    lines += measured(samples, here, parameters)
    lines += [
        "",
        f"Two single-threaded workers take {two / threaded:.2f} of the time of one with two "
        "threads. The prediction adds what one worker needs for half of the tasks, the choice of "
        "all of them, Adam and one all-reduce; it knows nothing of two processes that share "
        "caches and memory, whose cost is the difference between the last column and half of the "
        "first row's.",
        "",
        f"Parts: {1e3 * here.fixed:.2f} ms + {1e3 * here.task:.2f} ms per own task + "
        f"{1e6 * here.choice:.1f} µs per task of all + {1e3 * here.adam:.2f} ms Adam + all-reduce "
        f"{1e3 * here.all_reduce(2, parameters):.2f} ms.",
        "",
        "## Bare all-reduces, two processes",
        "",
        *links(reduced),
        "",
        f"## On paper: {TASKS} tasks on every rank",
        "",
        f"Not measured. GPU rows assume {GPU_FLOPS:.0e} operations/s sustained, {GPU_RATE:.0e} "
        f"bytes/s and {GPU_HOP:.0e} s per message between ranks, and {SHOTS} support and "
        f"{EXAMPLES} query examples per task, 2 |θ| operations each; every rank chooses the images "
        "of all tasks at this machine's speed. The first rows take this machine's loopback for the "
        "network.",
        "",
        *on_paper(here, parameters),
    ]
    write("scale.md", lines)


if __name__ == "__main__":
    takes_no_options(__doc__)
    main()

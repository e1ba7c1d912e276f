"""TR-MAML beside MAML: the error on sine waves of common, of rare and of unseen amplitudes.

Run: python benchmarks/tr_maml.py        (some minutes on one thread; resumable)
Writes benchmarks/results/tr_maml.md.
"""

from pathlib import Path

import torch
from bench import heading, spent, table, takes_no_options, trained, write
from torch import Tensor

from innerloop.config import load
from innerloop.core import streams
from innerloop.data.values.sine_groups import SineGroups

ITERATIONS, BIN, PER_GROUP = 1500, 0.1, 100
RANGES = {
    "common: 0.1 to 1": ((0.1, 1.0),),
    "rare: 4.9 to 5": ((4.9, 5.0),),
    "all: 0.1 to 5": ((0.1, 5.0),),
}
RUNS = {
    "MAML": "null",
    "TR-MAML, projected": "projected",
    "TR-MAML, exponentiated": "exponentiated",
}


def run(kind: str) -> Path:
    """Trained on 9 common groups and a rare one, all drawn alike."""
    words = ["--train.iterations", ITERATIONS, "--data.bin_width", BIN, "--method.lr", 0.01]
    words += ["--data.ranges", "[[0.1, 1.0], [4.9, 5.0]]"]
    words += ["--train.lr", 3e-3, "--model.init", "pytorch"]
    words += ["--train.validate-every", 0, "--train.threads", 1]
    words += ["--train.robust_lr", "null" if kind == "null" else 1e-3]
    words += [] if kind == "null" else ["--train.robust_update", kind]
    return trained(f"tr-{kind}", "sine-10shot/tr_maml", *words)


def errors(folder: Path, ranges: tuple[tuple[float, float], ...]) -> tuple[Tensor, Tensor]:
    """The MSE after one step from 10 points: the mean of each bin, and of each task."""
    source = SineGroups(shot=10, queries=100, ranges=ranges, bin_width=BIN)
    n = PER_GROUP * len(source.groups)
    group = source.task_groups(streams.generator(0, "groups"), n)
    tasks = source.sample(streams.generator(0, "groups"), n)
    method = load(folder, weights="last")[1]
    outputs = method.query_outputs(tasks, 1)[-1]
    found = (outputs - tasks.query.y).square().flatten(1).mean(1).double()
    return torch.stack([found[group == g].mean() for g in range(len(source.groups))]), found


def main() -> None:
    rows = []
    for told, kind in RUNS.items():
        folder = run(kind)
        cells = []
        for ranges in RANGES.values():
            by_group, each = errors(folder, ranges)
            half = 1.96 * float(each.std()) / len(each) ** 0.5
            cells.append(f"{float(each.mean()):.3f} ± {half:.3f}")
        rows.append([told, *cells, f"{float(by_group.max()):.2f}", f"{spent(folder)[1]:.0f} s"])
    facts = (
        "`sine-10shot/tr_maml` with 9 groups of amplitudes from 0.1 to 1 and one from 4.9 to 5, "
        f"{ITERATIONS} iterations of 25 tasks, Adam 3e-3, torch's initial weights, inner rate "
        "0.01, weights by steps of 1e-3; mean squared error ± 95 % interval from 10 points after "
        f"one inner step, about {PER_GROUP} tasks of seed 0 for each bin of amplitudes, 0.1 wide."
    )
    header = ["trained by", *RANGES, "worst of 49 bins", "time"]
    write(
        "tr_maml.md",
        [*heading("TR-MAML", "python benchmarks/tr_maml.py", facts), *table(header, rows)],
    )


if __name__ == "__main__":
    takes_no_options(__doc__)
    main()

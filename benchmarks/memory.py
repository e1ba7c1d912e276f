"""Peak memory of one meta-gradient against the number of inner steps.

Conv4-64 (28x28, batch statistics), 5-way 5-shot, 15 queries per class, one task, float32, one
thread. Every row is measured in a process of its own: one meta-gradient with one inner step warms
up, the peak mark is reset, and the peak over the memory held then is the figure.

Run: python benchmarks/memory.py > benchmarks/results/memory.md      (Linux, about three minutes)
"""

import datetime
import multiprocessing
import statistics

import torch
from bench import takes_no_options

from innerloop import Batch, Task, methods
from innerloop.core.contract import Estimator
from innerloop.doctor.memory import peak_memory
from innerloop.estimate import Adjoint, FirstOrder, ForwardOverReverse, Unrolled
from innerloop.models import Conv4

STEPS = (1, 5, 10, 20, 40)
ESTIMATORS: dict[str, Estimator] = {
    "Adjoint()": Adjoint(),
    "Adjoint(store_every=1)": Adjoint(store_every=1),
    "Adjoint(ForwardOverReverse())": Adjoint(ForwardOverReverse()),
    "FirstOrder()": FirstOrder(),
    "Unrolled()": Unrolled(),
}


def draw() -> Task:
    """One made-up task: memory does not depend on what the pictures show."""
    torch.manual_seed(0)
    labels = torch.arange(5)
    support = Batch(torch.rand(1, 25, 1, 28, 28), labels.repeat_interleave(5).expand(1, -1))
    query = Batch(torch.rand(1, 75, 1, 28, 28), labels.repeat_interleave(15).expand(1, -1))
    return Task(support, query)


def measure(name: str, steps: int) -> float:
    """Peak over base in MiB, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, tasks = Conv4(5), draw()
    methods.maml(model, lr=0.01, steps=1, estimator=ESTIMATORS[name]).meta_gradient(tasks)
    method = methods.maml(model, lr=0.01, steps=steps, estimator=ESTIMATORS[name])
    return peak_memory(lambda: method.meta_gradient(tasks), torch.device("cpu"))[0] / 2**20


def apart(name: str, steps: int) -> float:
    """The median of three fresh processes."""
    context = multiprocessing.get_context("fork")
    found = []
    for _ in range(3):
        with context.Pool(1) as pool:
            found.append(pool.apply(measure, (name, steps)))
    return statistics.median(found)


def main() -> None:
    table = {name: [apart(name, steps) for steps in STEPS] for name in ESTIMATORS}
    print("# Peak memory of one exact meta-gradient against inner steps\n")
    print(
        f"Command: `python benchmarks/memory.py`. {datetime.date.today()}, CPU, one thread, torch "
        f"{torch.__version__}, float32. Conv4-64 with batch statistics, 5-way 5-shot, 15 queries "
        "per class, one task; median of three processes; peak resident set over the set held after "
        "a warm-up with one step.\n"
    )
    print("| estimator | " + " | ".join(f"K = {s}" for s in STEPS) + " | K = 40 / K = 5 |")
    print("|---" * (len(STEPS) + 2) + "|")
    for name, row in table.items():
        cells = [f"{mib:.0f} MiB" for mib in row]
        ratio = row[STEPS.index(40)] / max(row[STEPS.index(5)], 1e-9)
        print(f"| `{name}` | " + " | ".join(cells) + f" | {ratio:.2f} |")


if __name__ == "__main__":
    takes_no_options(__doc__)
    main()

"""Curvature by finite differences on a network with kinks: how far HF-MAML's gradient is off.

Run: INNERLOOP_DATA=FOLDER python benchmarks/hessian_free.py      (a minute on two cores)
Writes benchmarks/results/hessian_free.md.

Conv4-64 on Omniglot 5-way 2-shot, one inner step at 0.4 on the first example of each class: the
meta-gradient of first order, with differences on the same examples, and with differences on the
second ones (HF-MAML), each against the exact one. No training beyond 100 steps of FOMAML.
"""

from collections.abc import Callable

import torch
from bench import heading, table, takes_no_options, write
from torch.nn.functional import cosine_similarity

from innerloop import Task, methods
from innerloop.config import sources
from innerloop.core.contract import Estimator
from innerloop.core.types import to
from innerloop.data.source import Source
from innerloop.estimate import Adjoint, FiniteDifference, FirstOrder, HessianFree
from innerloop.estimate.hessian_free import split_support
from innerloop.method import Method
from innerloop.models import Conv4
from innerloop.recipes import recipe

TASKS, CALLS, OUTER_STEPS, LR = 8, 4, 100, 0.4
DISPLACEMENTS = (None, 1e-3, 1e-2)
Row = tuple[str, torch.dtype, Callable[[], Estimator]]


def rows() -> list[Row]:
    single, double = torch.float32, torch.float64
    found: list[Row] = [("first order", single, FirstOrder)]
    for d in DISPLACEMENTS:
        told = "the default" if d is None else f"{d:g}"
        found.append((f"same examples, {told}", single, lambda d=d: Adjoint(FiniteDifference(d))))
        found.append((f"other examples, {told}", single, lambda d=d: HessianFree(displacement=d)))
    return [
        *found,
        ("same examples, 1e-06", double, lambda: Adjoint(FiniteDifference(1e-6))),
        ("other examples, 1e-06", double, lambda: HessianFree(displacement=1e-6)),
    ]


def gradient(method: Method, make: Callable[[], Estimator], tasks: list[Task]) -> torch.Tensor:
    """The mean over all tasks; all but HF-MAML take the first part of the support only."""
    estimator = make()
    if not isinstance(estimator, HessianFree):
        tasks = [Task(split_support(task.support, 0.5)[0], task.query) for task in tasks]
    chosen = method.replace(estimator=estimator)
    found = [chosen.meta_gradient(task).grads for task in tasks]
    return sum(torch.cat([g.double().flatten() for g in grads.values()]) for grads in found) / CALLS


def measured(method: Method, source: Source) -> list[tuple[float, float]]:
    """For each row: the cosine to the exact gradient, and the length over its length."""
    stream = torch.Generator().manual_seed(1)
    drawn = [source.sample(stream, TASKS) for _ in range(CALLS)]
    tasks = {d: [to(t, d) for t in drawn] for d in (torch.float32, torch.float64)}
    exact = {d: gradient(method.to(d), Adjoint, tasks[d]) for d in tasks}
    found = []
    for _, dtype, make in rows():
        g, g0 = gradient(method.to(dtype), make, tasks[dtype]), exact[dtype]
        found.append((float(cosine_similarity(g, g0, dim=0)), float(g.norm() / g0.norm())))
    method.to(torch.float32)
    return found


def train(method: Method, source: Source) -> None:
    optimizer = torch.optim.Adam(method.parameters(), lr=2e-3)
    stream = torch.Generator().manual_seed(0)
    for _ in range(OUTER_STEPS):
        optimizer.zero_grad()
        method.loss(source.sample(stream, TASKS)).backward()
        optimizer.step()


def main() -> None:
    config = recipe("omniglot-5w1s-quick/hf_maml")
    source = sources.build(config.data, config.test, "cpu").train
    torch.manual_seed(0)
    method = methods.fomaml(Conv4(5), lr=LR, steps=1)
    start = measured(method, source)
    train(method, source)
    end = measured(method, source)
    header = ["curvature, displacement", "precision", "at the start: cosine", "length"]
    header += [f"after {OUTER_STEPS} outer steps: cosine", "length"]
    lines = [
        [told, str(dtype).removeprefix("torch.")]
        + [f"{number:.3f}" for pair in (a, b) for number in pair]
        for (told, dtype, _), a, b in zip(rows(), start, end, strict=True)
    ]
    facts = (
        f"Conv4-64, Omniglot 5-way, one step at {LR} on one example per class, curvature on the "
        f"same or on one other per class; mean meta-gradient over {TASKS * CALLS} tasks, against "
        "the exact one in the same precision: cosine, and length over its length. Batch statistics."
    )
    title = "Hessian-vector products by finite differences on ReLU and batch statistics"
    write("hessian_free.md", [*heading(title, "python benchmarks/hessian_free.py", facts),
                              *table(header, lines)])  # fmt: skip


if __name__ == "__main__":
    takes_no_options(__doc__)
    main()

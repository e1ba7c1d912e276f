"""The implicit meta-gradient: its error where the inner problem is not solved, memory and time.

The error is the relative distance to the exact meta-gradient of the fully converged inner problem,
in float64: on linear regression from its closed form, on a small convolutional network from Newton
steps to a gradient of 1e-11 and conjugate gradients to 1e-13. Memory and time are those of one
meta-gradient of Conv4-64 (28x28, batch statistics), 5-way 5-shot, 15 queries per class, one task,
float32, every cell in a process of its own.

Run: python benchmarks/imaml.py        (Linux, about two minutes on a free core)
Writes benchmarks/results/imaml.md and docs/images/imaml.png.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from bench import heading, table, takes_no_options, write
from memory import draw
from torch import Tensor, nn

from innerloop import Method, Task, methods
from innerloop.core.contract import Estimator
from innerloop.core.types import to
from innerloop.data.images.glyphs import glyphs
from innerloop.data.values.synthetic import LinearGaussian
from innerloop.doctor.memory import peak_memory
from innerloop.estimate import Adjoint, ConjugateGradient, FirstOrder, Implicit, Unrolled
from innerloop.learn import GradientLearner
from innerloop.models import Conv4
from innerloop.objective import Proximal, Query
from innerloop.report.plot import style
from innerloop.solve import GradientDescent, NewtonCG, Solver

PICTURE = Path("docs/images/imaml.png")
INNER = (1, 2, 5, 10, 20, 50, 100, 200)
CG = (1, 2, 5, 10, 20, 40)
STEPS = (1, 5, 10, 20, 40)
LAM, RATE = 2.0, 0.1
"""The penalty and the inner rate of the paper's Omniglot runs."""

Rows = dict[str, list[float]]
Problem = tuple[nn.Module, Task, str, Tensor]
"""Model, tasks, loss and the exact meta-gradient."""


def linear() -> Problem:
    """Linear regression in 50 dimensions from 25 points: everything has a closed form."""
    torch.manual_seed(0)
    d, shot, queries = 50, 25, 25
    source = LinearGaussian(
        mean=torch.ones(d, dtype=torch.float64), noise=0.1, shot=shot, queries=queries
    )
    tasks = source.sample(torch.Generator().manual_seed(0), 10)
    model = nn.Linear(d, 1, bias=False).double()
    start = model.weight.detach().squeeze(0)
    best = LinearGaussian.optimum(tasks.support, penalty=LAM, centre=start)
    x, y, _ = tasks.query
    slope = 2 / queries * x.mT @ (x @ best.unsqueeze(-1) - y)
    x = tasks.support.x
    hessian = 2 / shot * x.mT @ x + LAM * torch.eye(d, dtype=torch.float64)
    exact = LAM * torch.linalg.solve(hessian, slope).squeeze(-1).mean(0)
    return model, tasks, "mse", exact


def convolutional() -> Problem:
    """Three convolutions on glyphs, tanh and no normalisation: a minimum that can be reached."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in (1, 8, 8):
        convolution = nn.Conv2d(channels, 8, 3, stride=2, padding=1)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="tanh")
        layers += [convolution, nn.Tanh()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 4 * 4, 5)).double()
    drawn = glyphs(way=5, shot=1, queries=5).train.sample(torch.Generator().manual_seed(0), 2)
    tasks = to(drawn, torch.float64)
    loss = "cross_entropy"
    solver = NewtonCG(50, cg_steps=40, tolerance=1e-11)
    method = bound(model, solver, Implicit(ConjugateGradient(200, tolerance=1e-13)), loss)
    found = method.meta_gradient(tasks)
    if not (found.stats["inner_converged"] & found.stats["converged"]).all():
        raise RuntimeError("the reference of the convolutional problem did not converge")
    return model, tasks, loss, flat(found.grads)


def bound(model: nn.Module, solver: Solver, estimator: Estimator, loss: str) -> Method:
    learner = GradientLearner(model, solver, inner=[loss, Proximal(LAM)])
    return Method(learner, Query(loss), estimator, name="imaml")


def flat(grads: dict[str, Tensor]) -> Tensor:
    return torch.cat([v.flatten() for v in grads.values()])


def error(problem: Problem, steps: int, estimator: Estimator) -> float:
    """Relative distance to the exact meta-gradient after so many gradient steps."""
    model, tasks, loss, exact = problem
    method = bound(model, GradientDescent(RATE, steps), estimator, loss)
    return float((flat(method.meta_gradient(tasks).grads) - exact).norm() / exact.norm())


def against_inner(problem: Problem) -> Rows:
    """Error after the numbers of inner steps of INNER."""
    estimators: dict[str, Estimator] = {
        f"iMAML, {n} CG step{'s' * (n > 1)}": Implicit(ConjugateGradient(n)) for n in (1, 2, 5, 20)
    }
    estimators |= {"MAML": Adjoint(), "FOMAML": FirstOrder()}
    return {
        name: [error(problem, steps, estimator) for steps in INNER]
        for name, estimator in estimators.items()
    }


def against_cg(problem: Problem) -> Rows:
    """Error of iMAML after the numbers of CG steps of CG."""
    return {
        f"{steps} inner steps": [error(problem, steps, Implicit(ConjugateGradient(n))) for n in CG]
        for steps in (5, 20, 100, 400)
    }


COSTED: dict[str, Callable[[nn.Module, int], Method]] = {
    "iMAML, 5 CG steps": lambda m, k: methods.imaml(m, lr=RATE, steps=k, lam=LAM, cg_steps=5),
    "MAML, adjoint": lambda m, k: methods.maml(m, lr=RATE, steps=k, estimator=Adjoint()),
    "MAML, unrolled": lambda m, k: methods.maml(m, lr=RATE, steps=k, estimator=Unrolled()),
    "FOMAML": lambda m, k: methods.fomaml(m, lr=RATE, steps=k),
}


def measure(name: str, steps: int) -> tuple[float, float]:
    """MiB over what is held before, and seconds of CPU, of one meta-gradient in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, tasks = Conv4(5), draw()
    COSTED[name](model, 1).meta_gradient(tasks)
    method = COSTED[name](model, steps)
    peak = peak_memory(lambda: method.meta_gradient(tasks), torch.device("cpu"))[0] / 2**20
    began = time.process_time()
    method.meta_gradient(tasks)
    return peak, time.process_time() - began


def costs() -> tuple[Rows, Rows]:
    """Memory and time of every cell: the medians of three fresh processes."""
    context = multiprocessing.get_context("fork")
    memory: Rows = {name: [] for name in COSTED}
    seconds: Rows = {name: [] for name in COSTED}
    for name in COSTED:
        for steps in STEPS:
            found = []
            for _ in range(3):
                with context.Pool(1) as pool:
                    found.append(pool.apply(measure, (name, steps)))
            memory[name].append(statistics.median(peak for peak, _ in found))
            seconds[name].append(statistics.median(spent for _, spent in found))
    return memory, seconds


def health() -> list[str]:
    """Whether the inner problem of the paper's network is solved, by what `stats` says."""
    tasks = glyphs(way=5, shot=1, queries=5).train.sample(torch.Generator().manual_seed(0), 4)
    solvers: dict[str, Solver] = {
        "16 gradient steps (paper)": GradientDescent(RATE, 16),
        "100 gradient steps": GradientDescent(RATE, 100),
        "100 gradient steps of 0.01": GradientDescent(0.01, 100),
        "16 Newton steps": NewtonCG(16),
    }
    rows = []
    for name, solver in {"none": GradientDescent(RATE, 0), **solvers}.items():
        torch.manual_seed(0)
        method = bound(Conv4(5), solver, Implicit(ConjugateGradient(5)), "cross_entropy")
        stats = method.meta_gradient(tasks).stats
        gradient, residual = stats["inner_gradient_norm"], stats["residual"]
        definite = int(stats["converged"].sum())
        rows.append([name, f"{gradient.mean():.3g}", f"{residual.mean():.3g}", f"{definite} of 4"])
    header = ["inner solve", "inner gradient", "residual of 5 CG steps", "no negative curvature"]
    return table(header, rows)


@style.styled
def curves(
    place: int, rows: Rows, x: Sequence[int], title: str, name: str, log: str = "xy"
) -> None:
    """One panel."""
    axes = DRAWN.add_subplot(2, 3, place)
    for i, (label, values) in enumerate(rows.items()):
        look = {"color": style.CYCLE[i % 6], "linestyle": style.DASHES[i // 3 % 4]}
        axes.plot(x, values, "o", markersize=3, lw=1.5, label=label, **look)
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0)
    axes.set_xlabel(name)
    axes.set_title(title)
    axes.legend(fontsize=7)


DRAWN = style.figure(11.5, 6.6)


def rows_of(rows: Rows, x: Sequence[int], word: str, shape: str) -> list[str]:
    """The same as a table."""
    header = [word, *map(str, x)]
    return table(header, [[k, *(shape.format(v) for v in vs)] for k, vs in rows.items()])


def main() -> None:
    torch.set_num_threads(1)
    lines = heading(
        "The implicit meta-gradient",
        "python benchmarks/imaml.py",
        f"Penalty {LAM:g}, inner rate {RATE:g} (the paper's on Omniglot). Errors in float64, "
        "relative to the exact meta-gradient of the solved inner problem; MAML and FOMAML go "
        "through the same steps on the same penalised objective. One thread.",
    )
    problems = {
        "linear regression, 50 dimensions, 25 points, 10 tasks": linear(),
        "three convolutions, 1893 weights, 2 tasks of glyphs, 5-way 1-shot": convolutional(),
    }
    for row, (name, problem) in enumerate(problems.items()):
        inner, cg = against_inner(problem), against_cg(problem)
        short = name.partition(",")[0]
        curves(3 * row + 1, inner, INNER, f"error, {short}", "inner steps")
        curves(3 * row + 2, cg, CG, f"error of iMAML, {short}", "CG steps")
        lines += [f"## Error: {name}", "", *rows_of(inner, INNER, "inner steps", "{:.1e}"), ""]
        lines += [*rows_of(cg, CG, "CG steps", "{:.1e}"), ""]
    memory, seconds = costs()
    curves(3, memory, STEPS, "memory of one meta-gradient, MiB", "inner steps", "")
    curves(6, seconds, STEPS, "time of one meta-gradient, s", "inner steps", "")
    lines += ["## Memory (MiB over what is held before; Conv4-64, 5-way 5-shot, one task)", ""]
    lines += [*rows_of(memory, STEPS, "inner steps", "{:.0f}"), ""]
    lines += ["## Time (seconds of CPU of one core)", ""]
    lines += [*rows_of(seconds, STEPS, "inner steps", "{:.2f}"), ""]
    lines += ["## Is the inner problem solved? (Conv4-64, fresh weights, 4 tasks of glyphs)", ""]
    lines += ["Norms, averaged over tasks; 5-way 1-shot, batch statistics, float32.", "", *health()]
    style.save(DRAWN, PICTURE, dpi=120)
    write("imaml.md", lines)


if __name__ == "__main__":
    takes_no_options(__doc__)
    main()

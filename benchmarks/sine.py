"""Sine waves from a few points: every method that is meant for them, tested as its paper tests it.

Run: python benchmarks/sine.py        (about half an hour on one free core; resumable)
Writes benchmarks/results/sine.md and docs/images/sine.png after every training.
"""

import math
from pathlib import Path

import torch
from bench import ENDED, RUNS, evaluated, heading, spent, table, takes_no_options, trained, write

from innerloop import Batch, Task
from innerloop.config import load
from innerloop.data.values.synthetic import Sine
from innerloop.evaluate import EvaluationResult
from innerloop.report.plot import style

PICTURE = Path("docs/images/sine.png")
TASKS = 600
QUERIES = 100
"""Test points of a task where the paper measures the whole curve."""
SHOTS = (5, 10, 20)

METHODS = {
    "maml": ("MAML", "0.67 / 0.38 / 0.35"),
    "meta_sgd": ("Meta-SGD", "–"),
    "cavia": ("CAVIA, 5 context parameters", "–"),
    "reptile": ("Reptile", "–"),
    "anil": ("ANIL", "–"),
    "bias_transformation": ("bias transformation", "–"),
    "meta_lstm": ("meta-learner LSTM", "–"),
    "pretrained": ("pre-trained on all waves", "2.41 / 2.23 / 2.19"),
}
"""What it is called, and the published MSE after 1, 5 and 10 steps (Finn et al. 2017, figure 2)."""

CONTEXTS = {1: "0.84 ± 0.06", 2: "0.21 ± 0.02", 3: "0.20 ± 0.02", 4: "0.19 ± 0.02"}
CONTEXTS |= {5: "0.19 ± 0.02"}
"""Context parameters and the MSE reported for them (Zintgraf et al. 2019; not confirmed)."""

FREQUENCIES = {
    (5, "meta_sgd"): ("0.90 ± 0.16", "0.63 ± 0.12", "0.50 ± 0.10"),
    (5, "maml"): ("1.13 ± 0.18", "0.85 ± 0.14", "0.71 ± 0.12"),
    (10, "meta_sgd"): ("0.88 ± 0.14 *", "0.53 ± 0.09 *", "0.35 ± 0.06 *"),
    (10, "maml"): ("1.17 ± 0.16 *", "0.77 ± 0.11 *", "0.56 ± 0.08 *"),
    (20, "meta_sgd"): ("1.01 ± 0.17 *", "0.54 ± 0.08 *", "0.31 ± 0.05 *"),
    (20, "maml"): ("1.29 ± 0.20 *", "0.76 ± 0.12 *", "0.48 ± 0.08 *"),
}
"""Points in training, method, and the MSE from 5, 10 and 20 points (Li et al. 2017, table 1)."""


DIVERGED = 100
"""A mean squared error that is no result any more; the waves themselves have 4.25."""
FIVE = (
    "Trained on 10 support and 10 query points (Reptile on 50), tested on 5 and 5. Inner rate "
    "0.001 for MAML and bias transformation, the default of the authors' code; 0.01 for ANIL and "
    "for fine-tuning, and where Meta-SGD's rates start; 1.0 for CAVIA, 0.02 for Reptile. More "
    "steps than in training are outside of what was trained, and rates that were learned for one "
    f"large step need not stand a second: a mean above {DIVERGED} is shown as such."
)

RUNS_IN_ORDER: dict[str, tuple[object, ...]] = {
    **{kind: (f"sine-5shot/{kind}",) for kind in METHODS},
    **{f"cavia-{n}": ("sine-10shot/cavia", "--method.context", n) for n in CONTEXTS if n != 5},
    **{
        f"frequency-{shot}-{kind}": (f"sine-frequency-{shot}shot/{kind}",)
        for shot, kind in FREQUENCIES
    },
}
"""Name, recipe and settings of every training."""


def train(name: str) -> None:
    """Operations are recorded once, where the support is not mini-batched."""
    recipe, *settings = RUNS_IN_ORDER[name]
    engine = "eager" if name in ("reptile", "pretrained") else "traced"
    words = ("--train.threads", 1, "--train.engine", engine)
    trained(f"sine-{name}", str(recipe), *words, *settings)


def ready(name: str) -> Path | None:
    """The folder of a training that has ended."""
    folder = RUNS / f"sine-{name}"
    return folder if (folder / ENDED).exists() else None


def score(folder: Path, shot: int, queries: int, steps: int) -> EvaluationResult:
    """On the tasks of seed 0 with so many support and query points."""
    sizes = ("--test.shot", shot, "--test.queries", queries)
    name = f"{shot}-points-{queries}-queries"
    return evaluated(folder, name, "--tasks", TASKS, "--steps", steps, *sizes)


def told_after(result: EvaluationResult, step: int) -> str:
    """The score after so many steps, or that it diverges."""
    return result.text(step) if result.mean[step] <= DIVERGED else "diverges"


def cost(folder: Path) -> str:
    """Outer steps and tasks in each."""
    return f"{spent(folder)[0]} × {load(folder)[0].train.meta_batch}"


def five_points() -> list[str]:
    """All methods on five points as in MAML's table."""
    rows = []
    for kind, (told, paper) in METHODS.items():
        if folder := ready(kind):
            config = load(folder)[0]
            result = score(folder, 5, 5, 10)
            shown = [told_after(result, step) for step in (0, 1, 5, 10)]
            inner = "0" if kind == "pretrained" else f"{config.method.steps}"
            rows.append([told, inner, *shown, paper, cost(folder)])
    header = ["method", "inner steps in training", "before", "1 step", "5 steps", "10 steps"]
    return table([*header, "paper (1 / 5 / 10)", "iterations × tasks"], rows)


def whole_curve() -> list[str]:
    """CAVIA's table: 10 points, one step, the whole curve."""
    rows = []
    entries = [
        (f"CAVIA, {n} context parameter{'s' * (n > 1)}", f"cavia-{n}", f"{paper} *")
        for n, paper in CONTEXTS.items()
    ]
    entries[-1] = (entries[-1][0], "cavia", entries[-1][2])
    entries += [(METHODS["maml"][0], "maml", "0.33 *")]
    entries += [(METHODS[kind][0], kind, "–") for kind in ("meta_sgd", "bias_transformation")]
    for told, name, paper in entries:
        if folder := ready(name):
            result = score(folder, 10, QUERIES, 1)
            rows.append([told, result.text(0), result.text(1), paper, cost(folder)])
    return table(["method", "before", "1 step", "paper", "iterations × tasks"], rows)


def frequencies() -> list[str]:
    """Meta-SGD's table: its own family, one step, the whole curve."""
    rows = []
    for (shot, kind), papers in FREQUENCIES.items():
        if folder := ready(f"frequency-{shot}-{kind}"):
            cells = [METHODS[kind][0], f"{shot}"]
            for tested, paper in zip(SHOTS, papers, strict=True):
                cells += [score(folder, tested, QUERIES, 1).text(1), paper]
            rows.append([*cells, cost(folder)])
    header = ["method", "trained on"]
    header += [word for shot in SHOTS for word in (f"{shot} points", "paper")]
    return table([*header, "iterations × tasks"], rows)


@style.styled
def picture() -> None:
    """The error against inner steps, and what each method makes of one wave.

    The fits are made with the steps of training; the pre-trained network is tuned for ten.
    """
    drawn = style.figure(9.6, 4.3)
    left, right = (drawn.add_subplot(1, 2, i) for i in (1, 2))
    task, curves = Sine(shot=5, queries=1).sample_with_curves(torch.Generator().manual_seed(0), 1)
    x = torch.linspace(-5, 5, 200).reshape(1, -1, 1)
    asked = Task(task.support, Batch(x, curves(x)))
    line = x.flatten()
    right.plot(line, curves(x).flatten(), color=style.FAINT, lw=6)
    for i, (kind, (told, _)) in enumerate(METHODS.items()):
        if folder := ready(kind):
            name = told.partition(",")[0]
            look = {"color": style.CYCLE[i % 6], "linestyle": style.DASHES[i // 6], "lw": 1.5}
            mean = score(folder, 5, 5, 10).mean
            mean[~(mean <= DIVERGED)] = math.nan
            left.plot(mean, "o", label=name, markersize=3, **look)
            right.plot(line, load(folder)[1].query_outputs(asked)[-1, 0, :, 0], **look)
    right.plot(task.support.x.flatten(), task.support.y.flatten(), "o", color=style.INK, zorder=5)
    style.log_scale(left, "y")
    left.set_xlabel("inner steps")
    left.set_title(f"mean squared error from 5 points, {TASKS} tasks")
    right.set_xlabel("x")
    right.set_title("one wave (grey) after as many steps as in training")
    handles = left.get_legend_handles_labels()
    drawn.legend(
        *handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9, handlelength=3
    )
    style.save(drawn, PICTURE, dpi=130)


def publish() -> None:
    """The tables and the picture of what has been trained so far."""
    facts = [
        f"{TASKS} test tasks of seed 0; mean squared error ± 95 % interval over tasks; no "
        "normalisation layers; one thread. Every training is `innerloop train RECIPE` with one "
        "seed; the recipe says which of its numbers are the paper's. Published numbers with * "
        "could not be confirmed in the papers themselves."
    ]
    missing = [name for name in RUNS_IN_ORDER if not ready(name)]
    if missing:
        facts.append(f"Not trained yet: {', '.join(missing)}.")
    lines = heading("Sine waves", "python benchmarks/sine.py", *facts)
    lines += ["## Five points, as in MAML's paper", "", *five_points(), "", FIVE, ""]
    lines += ["## Ten points and the whole curve, as in CAVIA's paper", "", *whole_curve(), ""]
    lines += ["## A frequency that varies, as in Meta-SGD's paper", "", *frequencies(), ""]
    picture()
    write("sine.md", lines[:-1])


def main() -> None:
    for name in RUNS_IN_ORDER:
        if not ready(name):
            train(name)
            publish()
    publish()


if __name__ == "__main__":
    takes_no_options(__doc__)
    main()

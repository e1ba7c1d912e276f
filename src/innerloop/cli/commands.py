"""The commands. Each is a function whose signature is its command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

Settings = Sequence[tuple[str, str]]
Run = Annotated[Positional[Path], arg(metavar="RUN")]
Weights = Annotated[str, arg(metavar="best|last|STEP")]
Device = Annotated[str | None, arg(metavar="DEVICE")]

SETTINGS: ContextVar[Settings] = ContextVar("settings", default=())
"""The dotted settings among the words of the command line (see `overrides.divide`)."""


def train(
    recipe: Annotated[Positional[str], arg(metavar="RECIPE|FILE|RUN")],
    *,
    run: Annotated[Path | None, arg(metavar="DIR")] = None,
    resume: bool = False,
    show: bool = False,
) -> None:
    """Meta-train a recipe; any setting follows by its name: --train.iterations 1000.

    Args:
        recipe: A recipe (see `innerloop recipes`), a YAML file, or a run's folder to --resume.
        run: Folder of the run; the default is runs/RECIPE.
        resume: Go on from the newest checkpoint in the folder.
        show: Print all settings as YAML instead of training.
    """
    from .training import train_command

    train_command(recipe, SETTINGS.get(), run_dir=run, resume=resume, show=show)


def evaluate(
    run: Run,
    *,
    tasks: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
    weights: Weights = "best",
    ensemble: int | None = None,
    json: Annotated[Path | None, arg(metavar="FILE")] = None,
    device: Device = None,
) -> None:
    """Score a run on test tasks after each inner step, with 95 % intervals.

    Args:
        run: Folder of a run.
        tasks: Number of test tasks; the default is the run's evaluate.tasks.
        steps: Inner steps, also more than in training; the default is evaluate.steps.
        seed: Seed of the test tasks; the default is evaluate.seed.
        weights: The best on validation, the last, or those of one checkpoint.
        ensemble: Average the outputs of so many best validations (train.keep_best) instead.
        json: Where to write the result; the default is RUN/evaluation.json.
        device: Where to compute; the default is the run's train.device.
    """
    from .scoring import evaluate_command

    evaluate_command(run, SETTINGS.get(), tasks, steps, seed, weights, ensemble, json, device)


def compare(
    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN RUN [RUN ...]")],
    *,
    tasks: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    weights: Weights = "best",
    json: Annotated[Path | None, arg(metavar="FILE")] = None,
    device: Device = None,
) -> None:
    """Compare runs task by task, on the same test tasks.

    Args:
        runs: Folders of two or more runs.
        tasks: Number of test tasks; the default is the first run's evaluate.tasks.
        steps: Inner steps of all; the default is each run's own.
        seed: Seed of the test tasks.
        weights: The best on validation, the last, or those of one checkpoint.
        json: Where to write the table, if anywhere.
        device: Where to compute.
    """
    from .scoring import compare_command

    compare_command(runs, SETTINGS.get(), tasks, steps, seed, weights, json, device)


def adapt(
    run: Run,
    *,
    support: Annotated[Path, arg(metavar="DIR")],
    query: Annotated[tuple[Path, ...], arg(metavar="DIR|FILE...")],
    out: Annotated[Path, arg(metavar="DIR")],
    steps: int | None = None,
    ink: Literal["auto", "dark", "light"] = "auto",
    weights: Weights = "best",
    device: Device = None,
) -> None:
    """Adapt a trained run to your own images, one folder per class, and classify others.

    Args:
        run: Folder of a run.
        support: Folder with one sub-folder of example images per class.
        query: A folder of images (or of class folders, to get the accuracy), or image files.
        out: New folder: predictions.csv, the adapted model, and a contact sheet.
        steps: Inner steps; the default is evaluate.steps.
        ink: Whether your images are dark on light, like writing on paper, or light on dark;
            "auto" supposes dark on light for runs trained on ink = 1, else takes them as
            they are.
        weights: The best on validation, the last, or those of one checkpoint.
        device: Where to compute.
    """
    from .adapting import adapt_command

    adapt_command(run, SETTINGS.get(), support, query, out, steps, ink, weights, device)


def check_gradient(
    recipe: Annotated[Positional[str], arg(metavar="RECIPE|FILE|RUN")],
    *,
    network: Annotated[str | None, arg(metavar="FILE.py:NAME")] = None,
    tasks: int = 2,
    estimators: tuple[str, ...] = (),
) -> None:
    """Hold every meta-gradient estimator against the dense reference, on your model.

    Args:
        recipe: A recipe, a YAML file or a run: its data, network and method.
        network: Your own network instead: a torch module, or a function that makes one.
        tasks: Tasks in the meta-gradient.
        estimators: Which ones; the default is all of them.
    """
    from .checking import check_gradient_command

    check_gradient_command(recipe, SETTINGS.get(), network, tasks, estimators)


def prepare(
    dataset: Annotated[Positional[str], arg(metavar="omniglot|IMAGES")],
    *,
    source: Annotated[Path | None, arg(metavar="PATH")] = None,
    out: Annotated[Path | None, arg(metavar="PATH")] = None,
    size: int | None = None,
    channels: Literal[1, 3] | None = None,
    skip_bad: bool = False,
) -> None:
    """Turn a published data set, or your folder of images, into the files that training reads.

    Args:
        dataset: omniglot, or a folder with one sub-folder of images per class, of any size.
        source: Of omniglot: folder with the official zips, their unpacked tree or a prepared
            file; without it, the official zips are downloaded.
        out: Of omniglot: folder or .npz file to write; the default is in the data folder
            (INNERLOOP_DATA). Of your images: a new folder.
        size: Of your images: the side in pixels to which they are resized; the default is 84.
        channels: Of your images: 3 is RGB, the default, 1 is grey.
        skip_bad: Of your images: leave out files that cannot be read, and list them.
    """
    from .preparing import prepare_command

    prepare_command(dataset, source, out, size, channels, skip_bad)


def recipes(family: Annotated[Positional[str], arg(metavar="[NAME]")] = "") -> None:
    """List the recipes: families of them, or every one whose name contains NAME.

    Args:
        family: Part of a name.
    """
    from .listing import recipes_command

    recipes_command(family)


def report(
    run: Run,
    *,
    baselines: Annotated[tuple[Path, ...], arg(metavar="RUN...")] = (),
    out: Annotated[Path | None, arg(metavar="FILE")] = None,
    tasks: int | None = None,
    steps: int | None = None,
    weights: Weights = "best",
    device: Device = None,
) -> None:
    """Write report.html: the scores, learning curves and pictures of a run, in one file.

    Args:
        run: Folder of a run.
        baselines: Other runs to show beside it, on the same tasks.
        out: Where to write; the default is RUN/report.html.
        tasks: Number of test tasks; the default is the run's evaluate.tasks.
        steps: Inner steps; the default is evaluate.steps.
        weights: The best on validation, the last, or those of one checkpoint.
        device: Where to compute.
    """
    from .scoring import report_command

    report_command(run, SETTINGS.get(), baselines, out, tasks, steps, weights, device)


def reproduce(
    dataset: Annotated[Positional[str], arg(metavar="omniglot")],
    *,
    budget: Literal["cpu", "paper"] = "cpu",
    methods: Annotated[tuple[str, ...], arg(metavar="METHOD...")] = (),
    minutes: float | None = None,
    out: Annotated[Path | None, arg(metavar="DIR")] = None,
    table: bool = False,
) -> None:
    """Train and test every method on a data set, and put the numbers beside the papers' ones.

    Args:
        dataset: Which table.
        budget: cpu: the same few minutes for every method; paper: every paper's recipe in full.
        methods: Only these rows; the others keep what they have.
        minutes: Training time of each run; the default is 6 for cpu, and no limit for paper.
        out: Folder of the runs and of table.md and table.csv; the default is
            runs/reproduce-DATASET-BUDGET. A run that was stopped goes on, one that is done is kept.
        table: Only write the table of what is there.
    """
    from .reproducing import reproduce_command

    reproduce_command(dataset, SETTINGS.get(), budget, methods, minutes, out, table)


def cite(run: Run) -> None:
    """Print the BibTeX entries of the papers that a run builds on.

    Args:
        run: Folder of a run.
    """
    from .citing import cite_command

    cite_command(run)


def demo(*, run: Annotated[Path, arg(metavar="DIR")] = Path("runs/demo")) -> None:
    """Meta-train on glyphs for two minutes, compare with two baselines, write a report.

    Args:
        run: Folder of the run; an earlier demo in it is completed or shown again.
    """
    from .demo import demo_command

    demo_command(run, SETTINGS.get())


COMMANDS: dict[str, Callable[..., Any]] = {
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "adapt": adapt,
    "report": report,
    "recipes": recipes,
    "prepare": prepare,
    "check-gradient": check_gradient,
    "reproduce": reproduce,
    "cite": cite,
    "demo": demo,
}

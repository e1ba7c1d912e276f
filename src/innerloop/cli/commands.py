"""The commands. Each is a typed dataclass whose fields are its command line.

What a command does is a function that takes the whole of it (see `dispatch`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from .overrides import Overrides

Run = Annotated[Positional[Path], arg(metavar="RUN")]
Weights = Annotated[str, arg(metavar="best|last|STEP")]
Device = Annotated[str | None, arg(metavar="DEVICE")]
File = Annotated[Path | None, arg(metavar="FILE")]
Folder = Annotated[Path | None, arg(metavar="DIR")]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Meta-train a recipe; any setting follows by its name: --train.iterations 1000.

    --data, --model and --method.loss may also be FILE.py:NAME, of your own.
    """

    recipe: Annotated[Positional[str], arg(metavar="RECIPE|FILE|RUN")]
    """A recipe (see `innerloop recipes`), a YAML file, or a run's folder to --resume."""
    run: Folder = None
    """Folder of the run; the default is runs/RECIPE."""
    resume: bool = False
    """Go on from the newest checkpoint in the folder."""
    show: bool = False
    """Print all settings as YAML instead of training."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What every command that scores runs takes."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("tasks", "steps", "seed", "weights", "ensemble")
    """What changes a score, where a command has it."""

    tasks: int | None = None
    """Number of test tasks; the default is the (first) run's evaluate.tasks."""
    steps: int | None = None
    """Inner steps, also more than in training; the default is the run's evaluate.steps."""
    weights: Weights = "best"
    """The best on validation, the last, or those of one checkpoint."""
    device: Device = None
    """Where to compute; the default is the run's train.device."""

    def asked(self, overrides: Overrides) -> str:
        """What differs from the test that the run's own configuration describes; else nothing."""
        words = [
            f"{f.name}-{getattr(self, f.name)}"
            for f in fields(self)
            if f.name in self.OPTIONS and getattr(self, f.name) != f.default
        ]
        return "-".join([*words, *([overrides.label()] if overrides else [])])


@dataclass(frozen=True, kw_only=True)
class Evaluate(Scoring):
    """Score a run on test tasks after each inner step, with 95 % intervals."""

    run: Run
    """Folder of a run."""
    seed: int | None = None
    """Seed of the test tasks; the default is evaluate.seed."""
    ensemble: int | None = None
    """Average the outputs of so many best validations (train.keep_best) instead."""
    json: File = None
    """Where to write the result; the default is RUN/evaluation.json, or a name that says what
    differs from the run's own settings."""


@dataclass(frozen=True, kw_only=True)
class Compare(Scoring):
    """Compare runs task by task, on the same test tasks."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN RUN [RUN ...]")]
    """Folders of two or more runs."""
    seed: int = 0
    """Seed of the test tasks."""
    json: File = None
    """Where to write the table, if anywhere."""


@dataclass(frozen=True, kw_only=True)
class Report(Scoring):
    """Write report.html: the scores, learning curves and pictures of a run, in one file."""

    run: Run
    """Folder of a run."""
    baselines: Annotated[tuple[Path, ...], arg(metavar="RUN...")] = ()
    """Other runs to show beside it, on the same tasks."""
    out: File = None
    """Where to write; the default is RUN/report.html, or a name that says what differs."""


@dataclass(frozen=True, kw_only=True)
class Adapt:
    """Adapt a trained run to your own images, one folder per class, and classify others."""

    run: Run
    """Folder of a run."""
    support: Annotated[Path, arg(metavar="DIR")]
    """Folder with one sub-folder of example images per class."""
    query: Annotated[tuple[Path, ...], arg(metavar="DIR|FILE...")]
    """A folder of images (or of class folders, to get the accuracy), or image files."""
    out: Annotated[Path, arg(metavar="DIR")]
    """New folder: predictions.csv, the adapted model, and a contact sheet."""
    steps: int | None = None
    """Inner steps; the default is evaluate.steps."""
    ink: Literal["auto", "dark", "light"] = "auto"
    """Whether your images are dark on light, like writing on paper, or light on dark; "auto"
    supposes dark on light for runs trained on ink = 1, else takes them as they are."""
    weights: Weights = "best"
    """The best on validation, the last, or those of one checkpoint."""
    device: Device = None
    """Where to compute."""


@dataclass(frozen=True, kw_only=True)
class CheckGradient:
    """Hold every meta-gradient estimator against the dense reference, on your model.

    Your own network is checked with --model FILE.py:NAME, your own loss with --method.loss.
    """

    recipe: Annotated[Positional[str], arg(metavar="RECIPE|FILE|RUN")]
    """A recipe, a YAML file or a run: its data, network and method."""
    tasks: int = 2
    """Tasks in the meta-gradient."""
    estimators: tuple[str, ...] = ()
    """Which ones; the default is all of them."""


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Turn a published data set, or your folder of images, into the files that training reads."""

    dataset: Annotated[Positional[str], arg(metavar="omniglot|IMAGES")]
    """omniglot, or a folder with one sub-folder of images per class, of any size."""
    source: Annotated[Path | None, arg(metavar="PATH")] = None
    """Of omniglot: folder with the official zips, their unpacked tree or a prepared file; without
    it, the official zips are downloaded."""
    out: Annotated[Path | None, arg(metavar="PATH")] = None
    """Of omniglot: folder or .npz file to write; the default is in the data folder
    (INNERLOOP_DATA). Of your images: a new folder."""
    size: int | None = None
    """Of your images: the side in pixels to which they are resized; the default is 84."""
    channels: Literal[1, 3] | None = None
    """Of your images: 3 is RGB, the default, 1 is grey."""
    skip_bad: bool = False
    """Of your images: leave out files that cannot be read, and list them."""


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes: families of them, or every one whose name contains NAME."""

    family: Annotated[Positional[str], arg(metavar="[NAME]")] = ""
    """Part of a name."""


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Print the JSON schema of a run's YAML file, with which editors complete and check it."""

    out: File = None
    """Where to write it instead."""


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Train and test every method on a data set, and put the numbers beside the papers' ones."""

    dataset: Annotated[Positional[str], arg(metavar="omniglot")]
    """Which table."""
    budget: Literal["cpu", "paper"] = "cpu"
    """cpu: the same few minutes for every method; paper: every paper's recipe in full."""
    methods: Annotated[tuple[str, ...], arg(metavar="METHOD...")] = ()
    """Only these rows; the others keep what they have."""
    minutes: float | None = None
    """Training time of each run; the default is 6 for cpu, and no limit for paper."""
    out: Folder = None
    """Folder of the runs and of table.md and table.csv; the default is
    runs/reproduce-DATASET-BUDGET. A run that was stopped goes on, one that is done is kept."""
    table: bool = False
    """Only write the table of what is there."""


@dataclass(frozen=True, kw_only=True)
class Cite:
    """Print the BibTeX entries of the papers that a run builds on."""

    run: Run
    """Folder of a run."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Meta-train on glyphs for two minutes, compare with two baselines, write a report."""

    run: Annotated[Path, arg(metavar="DIR")] = Path("runs/demo")
    """Folder of the run; an earlier demo in it is completed or shown again."""


Command = (
    Train
    | Evaluate
    | Compare
    | Adapt
    | Report
    | Recipes
    | Schema
    | Prepare
    | CheckGradient
    | Reproduce
    | Cite
    | Demo
)
COMMANDS: dict[str, type[Command]] = {
    "train": Train,
    "evaluate": Evaluate,
    "compare": Compare,
    "adapt": Adapt,
    "report": Report,
    "recipes": Recipes,
    "schema": Schema,
    "prepare": Prepare,
    "check-gradient": CheckGradient,
    "reproduce": Reproduce,
    "cite": Cite,
    "demo": Demo,
}

"""`innerloop train`: which configuration, which folder, and what is shown meanwhile."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax

from ..config import RunConfig, check_folder, launch, load_yaml, parse_yaml, stored
from ..config.launch import CONFIG
from ..engine import keep_freed_memory
from ..recipes import recipe
from ..train.interrupt import Interrupted
from ..train.log import Observer
from ..train.ranks import Ranks, joined, launched, restarted, spawn
from .commands import Train
from .console import say, terminal
from .cost import CostFile
from .overrides import Overrides
from .progress import Progress


def train(asked: Train, overrides: Overrides) -> None:
    """Train what was asked for, with the settings laid over it."""
    console = terminal()
    base, folder = resolve(asked.recipe, asked.run, asked.resume)
    config = base.override(overrides.pairs)
    if asked.show:
        shown = config.to_yaml()
        console.print(Syntax(shown, "yaml") if console.is_terminal else shown, soft_wrap=True)
        return
    train_run(console, config, folder, resume=asked.resume)


def train_run(
    console: Console,
    config: RunConfig,
    folder: Path,
    *,
    resume: bool = False,
    then: str | None = "evaluate",
    apart: bool = False,
) -> None:
    """Train with progress on the console, and say which command is `then` next.

    `apart` takes a process of its own even where one is enough: its memory is then the run's.
    """
    config = config.located()
    if launched():
        if config.train.workers > 1:
            raise ValueError(
                f"torchrun has started this process as one of several, and train.workers is "
                f"{config.train.workers}: expected one or the other. Under torchrun type "
                "--workers 1, or start innerloop train without torchrun"
            )
        with joined() as ranks:
            # The same command is given again when a rank was lost or a job is requeued.
            resume = (resume or restarted()) and (folder / CONFIG).exists()
            ranks.wait()
            _as_rank(ranks, config, folder, resume, then)
    elif config.train.workers > 1 or apart:
        check_folder(config, folder, resume)
        Ranks(size=config.train.workers).enough(config.train.meta_batch)
        spawn(config.train.workers, _worker, config.to_yaml(), folder, resume, then)
    else:
        _train(console, config, folder, resume, then, None)


def _worker(ranks: Ranks, text: str, folder: Path, resume: bool, then: str | None) -> None:
    """One of several processes that this one has started."""
    _as_rank(ranks, parse_yaml(text, "the configuration"), folder, resume, then)


def _as_rank(ranks: Ranks, config: RunConfig, folder: Path, resume: bool, then: str | None) -> None:
    """The first of several processes speaks for all."""
    console = terminal(quiet=not ranks.first)
    if not ranks.first:
        logging.getLogger("innerloop").setLevel(logging.ERROR)
    try:
        _train(console, config, folder, resume, then, ranks)
    except Interrupted as stop:
        say(console, stop, "yellow")
        raise SystemExit(128 + stop.signum) from None


def _train(
    console: Console,
    config: RunConfig,
    folder: Path,
    resume: bool,
    then: str | None,
    ranks: Ranks | None,
) -> None:
    keep_freed_memory()  # this process is ours: no library call changes an allocator unasked
    adapts = getattr(config.method, "steps", 0) > 0
    with Progress(console, config.name, folder, adapts=adapts) as progress:
        watching: list[Observer] = [progress, CostFile(folder)]
        state = launch(config, folder, resume=resume, observers=watching, ranks=ranks)
    best = "" if state.best_step is None else f", best on validation at step {state.best_step}"
    say(console, f"trained {state.step} steps in {state.seconds:.0f} s{best}: {folder}")
    if then is not None:
        say(console, f"next: innerloop {then} {shlex.quote(str(folder))}")


def resolve(name: str, run_dir: Path | None, resume: bool) -> tuple[RunConfig, Path]:
    """The configuration that `name` stands for, and the folder of the run."""
    path = Path(name)
    if path.is_dir():
        config = stored(path)
        if not resume and run_dir is None:
            raise ValueError(
                f"{name} is a run: go on with it: innerloop train {name} --resume, or train its "
                f"configuration again elsewhere: innerloop train {path / 'config.yaml'} --run DIR"
            )
        return config, run_dir or path
    config = load_yaml(path) if path.suffix in (".yaml", ".yml") else recipe(name)
    return config, run_dir or Path("runs") / config.name.replace("/", "-")

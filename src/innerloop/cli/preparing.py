"""`innerloop prepare`: published data sets into the files that training reads."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from ..data.cache import data_folder
from ..data.omniglot_prepare import prepare_omniglot


def prepare_command(dataset: str, source: Path | None, out: Path | None) -> None:
    """Prepare a data set and say what was checked."""
    console = Console()
    where = data_folder() / dataset if out is None else out
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        bars: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total or None)
            progress.update(bars[what], completed=done, total=total or None)

        prepared = prepare_omniglot(source, where, progress=show)
    for line in prepared.lines():
        console.print(line, soft_wrap=True, highlight=False)
    console.print("next: innerloop train omniglot-5w1s/maml", highlight=False)

"""`innerloop prepare`: published data sets, and folders of images, into what training reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from ..data.cache import data_folder
from ..data.download import Progress as Callback
from ..data.images.files import Channels
from ..data.images.folder_prepare import prepare_folder
from ..data.images.omniglot_prepare import prepare_omniglot


def prepare_command(
    dataset: str,
    source: Path | None,
    out: Path | None,
    size: int | None,
    channels: Channels | None,
    skip_bad: bool,
) -> None:
    """Prepare a data set and say what was checked."""
    console = Console()
    _check_options(dataset, source, out, bool(size or channels or skip_bad))
    if dataset == "omniglot":
        where = data_folder() / dataset if out is None else out
        with _bars(console) as progress:
            lines = prepare_omniglot(source, where, progress=progress).lines()
        recipe = "omniglot-5w1s/maml"
    else:
        assert out is not None
        with _bars(console) as progress:
            lines = prepare_folder(
                dataset,
                out,
                size=84 if size is None else size,
                channels=channels or 3,
                skip_bad=skip_bad,
                progress=progress,
            ).lines()
        recipe = f"folder-5w1s/maml --data prepared --data.root {out}"
    for line in [*lines, f"next: innerloop train {recipe}"]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _check_options(dataset: str, source: Path | None, out: Path | None, for_images: bool) -> None:
    """Raises ValueError for what is missing, or has no meaning, with this data set."""
    if dataset == "omniglot":
        if for_images:
            raise ValueError(
                "--size, --channels and --skip-bad are for a folder of images; omniglot is always "
                "28 x 28 and grey"
            )
    elif not Path(dataset).expanduser().is_dir():
        raise FileNotFoundError(
            f"{dataset} is neither a data set nor a folder; expected omniglot, or a folder with a "
            "sub-folder of images per class"
        )
    elif source is not None:
        raise ValueError(
            f"--source is for omniglot; for your images: innerloop prepare {source} --out DIR"
        )
    elif out is None:
        raise ValueError(f"say where to write: innerloop prepare {dataset} --out DIR, a new folder")


@contextmanager
def _bars(console: Console) -> Iterator[Callback]:
    """What is called with the progress, and draws one bar for each thing going on."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        bars: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total or None)
            progress.update(bars[what], completed=done, total=total or None)

        yield show

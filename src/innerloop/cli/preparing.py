"""`innerloop prepare`: published data sets, and folders of images, into what training reads."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import TaskID

from ..data.cache import data_folder
from ..data.download import Progress as Callback
from ..data.images.folder_prepare import prepare_folder
from ..data.images.omniglot_prepare import prepare_omniglot
from .commands import Prepare
from .console import bars, say, terminal, visible


def prepare(asked: Prepare) -> None:
    """Prepare a data set and say what was checked."""
    console = terminal()
    _check_options(asked)
    if asked.dataset == "omniglot":
        where = data_folder() / asked.dataset if asked.out is None else asked.out
        with _bars(console) as progress:
            lines = prepare_omniglot(asked.source, where, progress=progress).lines()
        recipe = "omniglot-5w1s/maml"
    else:
        assert asked.out is not None
        with _bars(console) as progress:
            lines = prepare_folder(
                asked.dataset,
                asked.out,
                size=84 if asked.size is None else asked.size,
                channels=asked.channels or 3,
                skip_bad=asked.skip_bad,
                progress=progress,
            ).lines()
        recipe = f"folder-5w1s/maml --data prepared --data.root {shlex.quote(str(asked.out))}"
    for line in [*lines, f"next: innerloop train {recipe}"]:
        say(console, line)


def _check_options(asked: Prepare) -> None:
    """Raises ValueError for what is missing, or has no meaning, with this data set."""
    dataset, source = asked.dataset, asked.source
    if dataset == "omniglot":
        if asked.size is not None or asked.channels or asked.skip_bad:
            raise ValueError(
                "--size, --channels and --skip-bad are for a folder of images; omniglot is always "
                "28 x 28 and grey"
            )
    elif not _is_folder(dataset):
        raise FileNotFoundError(
            f"{dataset} is neither a data set nor a folder; expected omniglot, or a folder with a "
            "sub-folder of images per class"
        )
    elif source is not None:
        raise ValueError(
            f"--source is for omniglot; for your images: innerloop prepare {source} --out DIR"
        )
    elif asked.out is None:
        raise ValueError(f"say where to write: innerloop prepare {dataset} --out DIR, a new folder")


def _is_folder(name: str) -> bool:
    try:
        return Path(name).expanduser().is_dir()
    except RuntimeError:  # the home of a user who is not there: ~nobody/pictures
        return False


@contextmanager
def _bars(console: Console) -> Iterator[Callback]:
    """What is called with the progress, and draws one bar for each thing going on."""
    with bars(console) as progress:
        going_on: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in going_on:
                going_on[what] = progress.add_task(visible(what), total=total or None)
            progress.update(going_on[what], completed=done, total=total or None)

        yield show

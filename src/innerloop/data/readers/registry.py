"""The published data sets: each stands once, at the function that reads it.

What other rooms know of them (recipes by name, the papers to cite, the choices of `--data.dataset`)
they read from `DATASETS`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, Literal, NamedTuple, ParamSpec, get_args

import torch
from torch import Tensor

from ..cache import expand
from ..pool import ClassPool
from ..validate import join_names

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SHORT: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}
"""The splits as file names have them."""

Options = ParamSpec("Options")


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """The facts of a published data set, and the checks that follow from them.

    `name` is what the command line and the folder call it, `title` what its papers do, and `papers`
    are the keys of these in `citations.bib`, that of the split included. `side` is the images' side
    in pixels, `classes` the number of classes of each split, `images` that of all images together.
    `files` names the accepted layouts, `origin` who made them, `split` whose the split is.
    """

    name: str
    title: str
    papers: tuple[str, ...]
    side: int
    classes: Mapping[Split, int]
    images: int
    files: str
    origin: str
    split: str = "as published"

    def missing(self, folder: Path, split: Split) -> FileNotFoundError:
        """Nothing is there to read: what to put where."""
        return FileNotFoundError(
            f"no {split} split of {self.name} in {folder}: expected {self.files}. It cannot be "
            f"downloaded from here; get it from its makers ({self.origin}), and say where it is "
            "with --data.root DIR or INNERLOOP_DATA"
        )

    def check_classes(self, split: Split, class_names: Sequence[str], where: Path) -> None:
        """Raises ValueError unless there are as many classes as published."""
        expected, found = self.classes[split], len(class_names)
        if found != expected:
            raise ValueError(
                f"{where}: expected {expected} {split} classes of {self.name}, found {found}; "
                "the file is incomplete or another split's, to fix it fetch it again"
            )

    def pool(
        self,
        split: Split,
        images: Tensor,
        label: Tensor,
        class_names: Sequence[str],
        where: Path,
        groups: tuple[Tensor, Sequence[str]] | None = None,
    ) -> ClassPool:
        """The pool, if it has the published number of classes and an image of each."""
        self.check_classes(split, class_names, where)
        counts = torch.bincount(label, minlength=len(class_names))
        empty = [class_names[k] for k in (counts == 0).nonzero().flatten().tolist()]
        if empty:
            raise ValueError(
                f"{where}: expected images of every class, found none of {len(empty)} classes: "
                f"{join_names(empty)}; to fix it fetch the files again"
            )
        group, group_names = groups or (
            torch.zeros(len(class_names), dtype=torch.int64, device="cpu"),
            ["all"],
        )
        return ClassPool(images, label, list(class_names), group, list(group_names))


class Registered(NamedTuple):
    """A published data set and the function that reads one split of it from a folder."""

    facts: PublishedSet
    read: Callable[[Path | str, Split], ClassPool]


DATASETS: dict[str, Registered] = {}
"""By name; filled by `dataset` as the modules of this package are imported."""


def dataset(
    facts: PublishedSet,
) -> Callable[
    [Callable[Concatenate[Path, Split, Options], ClassPool]],
    Callable[Concatenate[Path | str, Split, Options], ClassPool],
]:
    """Decorates the function that reads a split of a published data set, and registers both.

    The function gets the folder as a path without `~` and one of the three splits; everybody may
    call it with a folder in words. What it takes beyond the two has defaults.

    Raises ValueError for a name that is taken, and from the decorated function for a word that is
    no split.
    """
    if facts.name in DATASETS:
        raise ValueError(f"a data set {facts.name!r} is registered already; give this another name")

    def register(
        read: Callable[Concatenate[Path, Split, Options], ClassPool],
    ) -> Callable[Concatenate[Path | str, Split, Options], ClassPool]:
        @functools.wraps(read)
        def checked(
            folder: Path | str, split: Split, *more: Options.args, **options: Options.kwargs
        ) -> ClassPool:
            if split not in SPLITS:
                raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
            return read(expand(folder), split, *more, **options)

        DATASETS[facts.name] = Registered(facts, checked)
        return checked

    return register

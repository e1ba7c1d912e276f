"""Few-shot tasks on the published data sets, in their published splits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from .cache import data_folder, expand
from .images.episodes import Augment
from .pool import ClassPool
from .pool_writer import PoolWriter
from .readers import DATASETS, PublishedSet, Split
from .readers.cub import CUB, read_cub
from .readers.registry import SPLITS, Registered
from .source import Splits
from .splits import few_shot

if TYPE_CHECKING:
    Dataset = str
else:
    Dataset = Literal[tuple(DATASETS)]
"""The names of the published data sets, as the choices of a setting."""


def published(
    dataset: Dataset,
    root: Path | str | None = None,
    *,
    way: int = 5,
    shot: int = 1,
    queries: int = 15,
    augment: Augment = "none",
    device: torch.device | str | None = None,
) -> Splits:
    """Tasks on a published data set (`readers.DATASETS`), RGB images in [0, 1].

    The files lie in `root`, or in the folder `dataset` of the data folder (INNERLOOP_DATA); its
    reader in `innerloop.data.readers` says in which layouts. `augment` acts on training tasks only.

    Raises FileNotFoundError, with what to put where, when a split is missing; ValueError when it is
    damaged or has another number of classes than published.
    """
    facts, read = _registered(dataset)
    return _tasks(
        facts,
        read,
        root,
        facts.split,
        way=way,
        shot=shot,
        queries=queries,
        augment=augment,
        device=device,
    )


def cub(
    root: Path | str | None = None,
    *,
    way: int = 5,
    shot: int = 1,
    queries: int = 15,
    size: int = 84,
    crop: bool = False,
    split_file: str | None = None,
    augment: Augment = "none",
    device: torch.device | str | None = None,
) -> Splits:
    """Tasks on CUB-200-2011, photographs of birds resized to `size` x `size`, RGB in [0, 1].

    The unpacked archive lies in `root`, or in the folder `cub` of the data folder (INNERLOOP_DATA).
    The split is that of Chen et al. 2019 ("A closer look"), or the lists of `split_file`, a JSON
    file `{"train": [...], "val": [...], "test": [...]}`. `crop` cuts to the bounding boxes, which
    that paper does not do and others do: say which with a result.

    Raises as `published`.
    """
    read = partial(read_cub, size=size, crop=crop, split_file=split_file)
    split_by = f"by {Path(split_file).name}" if split_file else CUB.split
    return _tasks(
        CUB,
        read,
        root,
        f"{split_by}, cropped to boxes" if crop else split_by,
        way=way,
        shot=shot,
        queries=queries,
        augment=augment,
        device=device,
    )


def prepare_published(
    dataset: Dataset, out: Path | str, root: Path | str | None = None
) -> tuple[int, int]:
    """Write a published data set to the new folder `out`, from where `prepared(out)` maps it.

    Files are decoded once, one split in memory at a time, and the published splits are kept:
    tieredImageNet then needs no memory to train on. Returns the numbers of images and of classes.

    Raises as `published`, and FileExistsError when `out` is there; nothing is left behind then.
    """
    facts, read = _registered(dataset)
    folder = _folder(facts, root)
    with PoolWriter(out, name=facts.name) as writer:
        for split in SPLITS:
            pool = read(folder, split)
            for k, name in enumerate(pool.class_names):
                rows = pool.rows[pool.starts[k] : pool.starts[k] + pool.counts[k]]
                images = pool.stored(rows, torch.device("cpu"))
                group = pool.group_names[int(pool.class_group[k])]
                writer.add(name, images, group=group, split=split)
        writer.name = f"{facts.name}{_partial(facts, len(writer))}"
    return len(writer), writer.n_classes


def _tasks(
    facts: PublishedSet,
    read: Callable[[Path, Split], ClassPool],
    root: Path | str | None,
    split_by: str,
    *,
    way: int,
    shot: int,
    queries: int,
    augment: Augment,
    device: torch.device | str | None,
) -> Splits:
    folder = _folder(facts, root)
    pools: dict[str, ClassPool] = {split: read(folder, split) for split in SPLITS}
    return few_shot(
        pools,
        way=way,
        shot=shot,
        queries=queries,
        rotate="none",
        augment=augment,
        invert=False,
        within_group=False,
        device=device,
        name=f"{facts.name}{_partial(facts, sum(map(len, pools.values())))}",
        split_by=split_by,
    )


def _registered(dataset: Dataset) -> Registered:
    if dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, got {dataset!r}")
    return DATASETS[dataset]


def _folder(facts: PublishedSet, root: Path | str | None) -> Path:
    return data_folder() / facts.name if root is None else expand(root)


def _partial(facts: PublishedSet, images: int) -> str:
    """What every result says when images are missing."""
    return "" if images == facts.images else f", partial: {images} of {facts.images} images"

"""Few-shot tasks on the published data sets, in their published splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from .cache import data_folder
from .images.episodes import Augment
from .pool import ClassPool
from .pool_writer import PoolWriter
from .readers import (
    Layout,
    Split,
    cifar,
    mini_imagenet,
    read_cifar_fs,
    read_cub,
    read_fc100,
    read_mini_imagenet,
    read_tiered_imagenet,
    tiered_imagenet,
)
from .readers import cub as cub_files
from .readers.layout import SPLITS
from .source import Splits
from .splits import few_shot

Dataset = Literal["mini-imagenet", "tiered-imagenet", "cifar-fs", "fc100"]
Reader = Callable[[Path, Split], ClassPool]

_READERS: Mapping[str, tuple[Layout, Reader]] = {
    "mini-imagenet": (mini_imagenet.LAYOUT, read_mini_imagenet),
    "tiered-imagenet": (tiered_imagenet.LAYOUT, read_tiered_imagenet),
    "cifar-fs": (cifar.CIFAR_FS, read_cifar_fs),
    "fc100": (cifar.FC100, read_fc100),
}


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
    """Tasks on miniImageNet, tieredImageNet, CIFAR-FS or FC100, RGB images in [0, 1].

    The files lie in `root`, or in the folder `dataset` of the data folder (INNERLOOP_DATA);
    `innerloop.data.readers` says in which layouts. `augment` acts on training tasks only.

    Raises FileNotFoundError, with what to put where, when a split is missing; ValueError when it is
    damaged or has another number of classes than published.
    """
    layout, read = _known(dataset)
    return _tasks(
        layout,
        read,
        root,
        "as published",
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
    said = f"by {Path(split_file).name}" if split_file else "of Chen et al. 2019"
    return _tasks(
        cub_files.LAYOUT,
        read,
        root,
        f"{said}, cropped to boxes" if crop else said,
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
    layout, read = _known(dataset)
    folder = _folder(layout, root)
    with PoolWriter(out, name=layout.name) as writer:
        for split in SPLITS:
            pool = read(folder, split)
            for k, name in enumerate(pool.class_names):
                rows = pool.rows[pool.starts[k] : pool.starts[k] + pool.counts[k]]
                images = pool.stored(rows, torch.device("cpu"))
                group = pool.group_names[int(pool.class_group[k])]
                writer.add(name, images, group=group, split=split)
        writer.name = f"{layout.name}{_partial(layout, len(writer))}"
    return len(writer), writer.n_classes


def _tasks(
    layout: Layout,
    read: Reader,
    root: Path | str | None,
    said: str,
    *,
    way: int,
    shot: int,
    queries: int,
    augment: Augment,
    device: torch.device | str | None,
) -> Splits:
    folder = _folder(layout, root)
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
        name=f"{layout.name}{_partial(layout, sum(map(len, pools.values())))}",
        said=said,
    )


def _known(dataset: str) -> tuple[Layout, Reader]:
    if dataset not in _READERS:
        raise ValueError(f"dataset must be one of {', '.join(_READERS)}, got {dataset!r}")
    return _READERS[dataset]


def _folder(layout: Layout, root: Path | str | None) -> Path:
    return data_folder() / layout.name if root is None else Path(root).expanduser()


def _partial(layout: Layout, images: int) -> str:
    """What every result says when images are missing."""
    return "" if images == layout.images else f", partial: {images} of {layout.images} images"

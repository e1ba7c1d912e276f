"""Folders of image files: one folder per class, optionally one folder of classes per group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..cache import expand
from ..pool import ClassPool
from ..pool_writer import CLASSES
from ..source import PARTS, Splits
from ..splits import Fractions, Skipped, few_shot, split_classes, with_enough_images
from ..validate import join_names
from .episodes import Augment, Rotate
from .files import BadImage, Channels, is_image, read_image

_PART = 256
SPLIT_NAMES: dict[str, str] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


class ClassFolder(NamedTuple):
    """One class: its name (`class` or `group/class`), its group, its files in order of name."""

    name: str
    group: str
    files: list[Path]


def folder(
    root: Path | str,
    *,
    way: int = 5,
    shot: int = 1,
    queries: int = 15,
    size: int = 84,
    channels: Channels = 3,
    fractions: Fractions = (0.64, 0.16, 0.20),
    seed: int = 0,
    rotate: Rotate = "none",
    augment: Augment = "none",
    invert: bool = False,
    within_group: bool = False,
    skip_bad: bool = False,
    skipped: Skipped | None = None,
    device: torch.device | str | None = None,
) -> Splits:
    """Few-shot tasks on your own images: `root/class/*.png` or `root/group/class/*.png`.

    Folders `train`, `val` (or `validation`) and `test` directly under `root` are the splits if all
    three are there; otherwise classes are shared out by `fractions` and `seed` (whole groups with
    `within_group`, so that test groups are new). Images of any size become uint8 (channels, size,
    size) in memory. `rotate` and `augment` act on training tasks only.

    A file that cannot be read, NaN pixels, or a class with fewer than shot + queries images is an
    error that names them; with `skip_bad` they are left out and listed in `skipped`.

    Raises FileNotFoundError for a missing folder and ValueError for everything else, such as a
    class that is in two splits.
    """
    if root == "":
        raise ValueError("root is empty: say where your images are, --data.root DIR")
    root = expand(root)
    if (root / CLASSES).is_file():
        raise ValueError(
            f"{root} is a prepared data set, not a folder of images; use --data prepared "
            f"--data.root {root}"
        )
    skipped = Skipped() if skipped is None else skipped
    needed = shot + queries
    places = split_folders(root)
    if places is None:
        pool = read_folder(root, size=size, channels=channels, skip_bad=skip_bad, skipped=skipped)
        pool = with_enough_images(pool, needed, skip_bad, skipped)
        pools = split_classes(pool, fractions, seed, within_group)
    else:
        pools = {
            part: with_enough_images(
                read_folder(p, size=size, channels=channels, skip_bad=skip_bad, skipped=skipped),
                needed,
                skip_bad,
                skipped,
            )
            for part, p in places.items()
        }
    return few_shot(
        pools,
        way=way,
        shot=shot,
        queries=queries,
        rotate=rotate,
        augment=augment,
        invert=invert,
        within_group=within_group,
        device=device,
        name=f"{folder_name(root)}{skipped}",
        split_by="by folder" if places else f"by seed {seed}",
    )


def read_folder(
    root: Path | str,
    *,
    size: int | tuple[int, int],
    channels: Channels = 3,
    skip_bad: bool = False,
    skipped: Skipped | None = None,
) -> ClassPool:
    """All images of `root/class/*` or `root/group/class/*` as one pool, uint8 (N, channels, H, W).

    Classes come in the order of their names. Raises as `folder`; with `skip_bad` unreadable files,
    and classes left without any, are left out and listed in `skipped`.
    """
    classes = class_folders(expand(root))
    skipped = Skipped() if skipped is None else skipped
    images: list[torch.Tensor] = []
    labels: list[int] = []
    kept: list[ClassFolder] = []
    for item, part in read_classes(classes, size, channels, skip_bad, skipped):
        if not kept or kept[-1] != item:
            kept.append(item)
        labels += [len(kept) - 1] * len(part)
        images.append(part)
    groups = sorted({item.group for item in kept})
    return ClassPool(
        images=torch.cat(images),
        label=torch.tensor(labels, device="cpu"),
        class_names=[item.name for item in kept],
        class_group=torch.tensor([groups.index(item.group) for item in kept], device="cpu"),
        group_names=groups,
    )


def read_classes(
    classes: Sequence[ClassFolder],
    size: int | tuple[int, int],
    channels: Channels,
    skip_bad: bool,
    skipped: Skipped,
) -> Iterator[tuple[ClassFolder, torch.Tensor]]:
    """Each class with its images, uint8 (k, channels, H, W), in parts of at most 256 images.

    Raises ValueError at the end for all files that cannot be read, and classes without images; with
    `skip_bad` only if nothing is left, and lists them in `skipped`.
    """
    bad: list[str] = []
    empty: list[str] = []
    for item in classes:
        readable = 0
        for start in range(0, len(item.files), _PART):
            part = []
            for path in item.files[start : start + _PART]:
                try:
                    part.append(read_image(path, size, channels))
                except BadImage as error:
                    bad.append(str(error))
            readable += len(part)
            if part and (skip_bad or not bad):
                yield item, torch.stack(part)
        if not readable:
            empty.append(f"{item.name} (0 of {len(item.files)} files are readable images)")
    if bad and not skip_bad:
        total = sum(len(item.files) for item in classes)
        raise ValueError(
            f"{len(bad)} of {total} files cannot be used: {join_names(bad)}; repair or remove "
            "them, or leave them out with --skip-bad (skip_bad=True)"
        )
    if empty and not skip_bad:
        raise ValueError(
            f"{len(empty)} of {len(classes)} class folders hold no image: {join_names(empty)}; "
            "fill or remove them, or leave them out with --skip-bad (skip_bad=True)"
        )
    skipped.files += bad
    skipped.classes += empty
    if len(empty) == len(classes):
        raise ValueError(f"no class folder holds a readable image: {join_names(bad + empty)}")


def class_folders(root: Path) -> list[ClassFolder]:
    """The classes under `root`, by name. Raises when the layout is neither of the two."""
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; expected one with a sub-folder per class")
    folders = _subfolders(root)
    if not folders:
        raise ValueError(
            f"{root} has no sub-folders; expected one per class, {root.name}/CLASS/*.png, or "
            f"{root.name}/GROUP/CLASS/*.png"
        )
    grouped = [f for f in folders if _subfolders(f)]
    flat = [f for f in folders if f not in grouped]
    mixed = [f.name for f in grouped if _images(f)]
    if mixed or (grouped and flat):
        raise ValueError(
            f"{root} mixes two layouts: {join_names(mixed or [f.name for f in flat])} hold images "
            f"where {join_names(f.name for f in grouped)} hold class folders; use CLASS/*.png "
            "throughout or GROUP/CLASS/*.png throughout"
        )
    if not grouped:
        return [ClassFolder(f.name, "all", _images(f)) for f in flat]
    return [
        ClassFolder(f"{group.name}/{f.name}", group.name, _images(f))
        for group in grouped
        for f in _subfolders(group)
    ]


def split_folders(root: Path) -> dict[str, Path] | None:
    """The train, validation and test folders of `root`; None when it has none of them.

    Raises ValueError when only some are there, or when other folders stand beside them.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; expected one with a sub-folder per class")
    folders = _subfolders(root)
    places = {SPLIT_NAMES[f.name.lower()]: f for f in folders if f.name.lower() in SPLIT_NAMES}
    if not places:
        return None
    missing = [name for name in PARTS if name not in places]
    others = [f.name for f in folders if f not in places.values()]
    if missing or others:
        wrong = f"{' and '.join(missing)} missing" if missing else f"also {join_names(others)}"
        raise ValueError(
            f"{root} has split folders {join_names(p.name for p in places.values())}, but {wrong}; "
            "expected exactly train, val and test, or class folders only"
        )
    return {name: places[name] for name in PARTS}


def folder_name(root: Path) -> str:
    """What results call the images of this folder."""
    return f"folder {root.resolve().name}"


def _subfolders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_file() and is_image(p))

"""Folders of image files: one folder per class, optionally one folder of classes per group."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from ..core.streams import generator
from .episodes import Augment, Episodes, Rotate
from .images import BadImage, Channels, is_image, read_image
from .pool import ClassPool
from .source import Splits
from .validate import check_disjoint, check_examples, named

SPLIT_NAMES = {
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


@dataclass
class Skipped:
    """What `skip_bad` left out, in words; empty when nothing was wrong."""

    files: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.files or self.classes)

    def lines(self) -> list[str]:
        """One line per thing left out."""
        return [f"skipped file {f}" for f in self.files] + [
            f"skipped class {c}" for c in self.classes
        ]


def folder(
    root: Path | str,
    *,
    way: int = 5,
    shot: int = 1,
    queries: int = 15,
    size: int = 84,
    channels: Channels = 3,
    fractions: tuple[float, float, float] = (0.64, 0.16, 0.20),
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
    root = Path(root).expanduser()
    skipped = Skipped() if skipped is None else skipped
    needed = shot + queries
    places = split_folders(root)
    if places is None:
        pool = read_folder(root, size=size, channels=channels, skip_bad=skip_bad, skipped=skipped)
        pool = _large_enough(pool, needed, skip_bad, skipped)
        pools = _shared_out(pool, fractions, seed, within_group)
        said = f"by seed {seed}"
    else:
        pools = {
            part: _large_enough(
                read_folder(p, size=size, channels=channels, skip_bad=skip_bad, skipped=skipped),
                needed,
                skip_bad,
                skipped,
            )
            for part, p in places.items()
        }
        said = "by folder"
    name = f"folder {root.resolve().name}"
    if skipped:
        name += f", skipped {len(skipped.files)} files and {len(skipped.classes)} classes"
    check_disjoint(pools, by="class")
    if within_group:
        check_disjoint(pools, by="group")
    sources = {
        part: Episodes(
            pool.inverted() if invert else pool,
            way=way,
            shot=shot,
            queries=queries,
            rotate=rotate if part == "train" else "none",
            augment=augment if part == "train" else "none",
            within_group=within_group,
            device=device,
            name=name,
            split=f"{part} {said}",
        )
        for part, pool in pools.items()
    }
    return Splits(sources["train"], sources["validation"], sources["test"])


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
    classes = class_folders(Path(root).expanduser())
    skipped = Skipped() if skipped is None else skipped
    images: list[torch.Tensor] = []
    labels: list[int] = []
    kept: list[ClassFolder] = []
    bad: list[str] = []
    empty: list[str] = []
    for item in classes:
        read = []
        for path in item.files:
            try:
                read.append(read_image(path, size, channels))
            except BadImage as error:
                bad.append(str(error))
        if not read:
            empty.append(f"{item.name} (0 of {len(item.files)} files are readable images)")
            continue
        labels += [len(kept)] * len(read)
        kept.append(item)
        images += read
    if bad and not skip_bad:
        total = sum(len(item.files) for item in classes)
        raise ValueError(
            f"{len(bad)} of {total} files cannot be used: {named(bad)}; repair or remove them, or "
            "leave them out with --skip-bad (skip_bad=True)"
        )
    if empty and not skip_bad:
        raise ValueError(
            f"{len(empty)} of {len(classes)} class folders hold no image: {named(empty)}; fill or "
            "remove them, or leave them out with --skip-bad (skip_bad=True)"
        )
    skipped.files += bad
    skipped.classes += empty
    if not kept:
        raise ValueError(f"{root} holds no readable image: {named(bad + empty)}")
    groups = sorted({item.group for item in kept})
    return ClassPool(
        images=torch.stack(images),
        label=torch.tensor(labels),
        class_names=[item.name for item in kept],
        class_group=torch.tensor([groups.index(item.group) for item in kept]),
        group_names=groups,
    )


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
            f"{root} mixes two layouts: {named(mixed or [f.name for f in flat])} hold images where "
            f"{named(f.name for f in grouped)} hold class folders; use CLASS/*.png throughout or "
            "GROUP/CLASS/*.png throughout"
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
    missing = [name for name in ("train", "validation", "test") if name not in places]
    others = [f.name for f in folders if f not in places.values()]
    if missing or others:
        wrong = f"{' and '.join(missing)} missing" if missing else f"also {named(others)}"
        raise ValueError(
            f"{root} has split folders {named(p.name for p in places.values())}, but {wrong}; "
            "expected exactly train, val and test, or class folders only"
        )
    return {name: places[name] for name in ("train", "validation", "test")}


def _subfolders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_file() and is_image(p))


def _large_enough(pool: ClassPool, needed: int, skip_bad: bool, skipped: Skipped) -> ClassPool:
    if not skip_bad:
        check_examples(pool, needed, "shot + queries")
        return pool
    skipped.classes += [
        f"{name} ({count} images, {needed} needed)"
        for name, count in zip(pool.class_names, pool.counts.tolist(), strict=True)
        if count < needed
    ]
    return pool.with_at_least(needed)


def _shared_out(
    pool: ClassPool, fractions: tuple[float, float, float], seed: int, by_group: bool
) -> dict[str, ClassPool]:
    """Classes (or whole groups) shuffled by `seed` and cut at the fractions."""
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions must be three positive numbers that sum to 1, got {fractions}")
    units = pool.class_group.unique() if by_group else torch.arange(pool.n_classes)
    many = "groups" if by_group else "classes"
    n = len(units)
    test, validation = max(1, round(n * fractions[2])), max(1, round(n * fractions[1]))
    if test + validation >= n:
        raise ValueError(
            f"{n} {many} shared out by {fractions} leave none for training; at least 3 are needed, "
            "or make the folders train, val and test yourself"
        )
    order = units[torch.randperm(n, generator=generator(seed, "folder", "split"))]
    parts = {
        "train": order[: n - test - validation],
        "validation": order[n - test - validation : n - test],
        "test": order[n - test :],
    }
    if not by_group:
        return {name: pool.select(part.sort().values) for name, part in parts.items()}
    return {
        name: pool.select(torch.isin(pool.class_group, part).nonzero().squeeze(1))
        for name, part in parts.items()
    }

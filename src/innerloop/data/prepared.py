"""Prepared data sets: images or the rows of tables on disk, of any size, ready to draw from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .cache import DAMAGED, expand
from .images.episodes import Augment, Rotate
from .mapped import MappedRows
from .pool import ClassPool
from .pool_writer import CLASSES, IMAGES, LABELS, VERSION
from .source import PARTS, Splits
from .splits import Fractions, Skipped, few_shot, split_classes, with_enough_images
from .validate import join_names

_AGAIN = "prepare it again with `innerloop prepare` or PoolWriter"


@dataclass(frozen=True, eq=False)
class PreparedSet:
    """A prepared data set, opened: `pool` holds its classes, the images stay on disk.

    `name` is what results call it; `class_split` says where each class belongs, None when that was
    left open.
    """

    pool: ClassPool
    name: str
    class_split: list[str] | None


def prepared(
    root: Path | str,
    *,
    way: int = 5,
    shot: int = 1,
    queries: int = 15,
    fractions: Fractions = (0.64, 0.16, 0.20),
    seed: int = 0,
    rotate: Rotate = "none",
    augment: Augment = "none",
    invert: bool = False,
    within_group: bool = False,
    skip_bad: bool = False,
    resident: bool = False,
    skipped: Skipped | None = None,
    device: torch.device | str | None = None,
) -> Splits:
    """Few-shot tasks on a prepared data set, which may be larger than memory.

    The tasks are those of `folder` on the images it was made of. `resident=True` reads all images
    into the memory of `device` at the start; otherwise they stay on disk and each task reads its
    own. `rotate` and `augment` need images (N, C, H, W) and act on training tasks only; `skip_bad`
    leaves out classes with fewer than shot + queries rows, and lists them in `skipped`.

    Raises FileNotFoundError or ValueError for files that are missing, damaged or changed, and
    ValueError for classes that are too small or too few.
    """
    if root == "":
        raise ValueError("root is empty: say where the prepared data is, --data.root DIR")
    held = open_prepared(root)
    skipped = Skipped() if skipped is None else skipped
    needed = shot + queries
    if held.class_split is None:
        pool = with_enough_images(held.pool, needed, skip_bad, skipped)
        pools = split_classes(pool, fractions, seed, within_group)
    else:
        where = held.class_split
        pools = {
            part: with_enough_images(
                held.pool.select([i for i, p in enumerate(where) if p == part]),
                needed,
                skip_bad,
                skipped,
            )
            for part in PARTS
        }
    if resident:
        pools = {part: pool.to(device or "cpu") for part, pool in pools.items()}
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
        name=f"{held.name}{skipped}",
        split_by="by folder" if held.class_split else f"by seed {seed}",
    )


def open_prepared(root: Path | str) -> PreparedSet:
    """The data set in the folder `root`, as `PoolWriter` or `innerloop prepare` wrote it.

    Images are mapped, not read; held in memory are 24 bytes per image, for labels and row numbers.

    Raises FileNotFoundError when a file is missing, ValueError when one is damaged, when they do
    not fit each other, and when the images are not those that were written.
    """
    root = expand(root)
    names = _names(root)
    images = MappedRows(root / IMAGES)
    size = (root / IMAGES).stat().st_size
    if size != names["bytes"]:
        raise ValueError(
            f"{root / IMAGES} has changed since it was prepared: {names['bytes']} bytes then, "
            f"{size} now; {_AGAIN}"
        )
    pool = ClassPool(
        images=images,
        label=_labels(root / LABELS, len(images)),
        class_names=names["class_names"],
        class_group=torch.tensor(names["class_group"], device="cpu"),
        group_names=names["group_names"],
    )
    empty = [name for name, n in zip(pool.class_names, pool.counts.tolist(), strict=True) if not n]
    if empty:
        raise ValueError(
            f"{len(empty)} of {pool.n_classes} classes in {root / CLASSES} have no row: "
            f"{join_names(empty)}; {_AGAIN}"
        )
    return PreparedSet(pool, names["name"], names["class_split"])


def _names(root: Path) -> dict[str, Any]:
    """The content of classes.json."""
    path = root / CLASSES
    if not path.is_file():
        raise FileNotFoundError(
            f"no prepared data in {root}: expected {IMAGES}, {LABELS} and {CLASSES}; make them of "
            f"a folder of images with `innerloop prepare IMAGES --out {root}`"
        )
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
        _check_names(names)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or something else ({error}); {_AGAIN}") from error
    return names


def _check_names(names: Any) -> None:
    """Raises ValueError unless this is what `PoolWriter` writes to classes.json."""
    if not isinstance(names, dict) or names.get("innerloop") != VERSION:
        got = names.get("innerloop") if isinstance(names, dict) else type(names).__name__
        raise ValueError(f"expected a table of version {VERSION}, got {got!r:.80}")
    kinds: dict[str, type] = {"name": str, "bytes": int}
    lists = {"class_names": str, "group_names": str, "class_group": int}
    if names.get("class_split") is not None:
        lists["class_split"] = str
    for key, kind in kinds.items():
        if type(names.get(key)) is not kind:
            raise ValueError(f"expected {key} of type {kind.__name__}, got {names.get(key)!r:.80}")
    for key, kind in lists.items():
        found = names.get(key)
        if not isinstance(found, list) or not found or {*map(type, found)} != {kind}:
            raise ValueError(f"expected {key} to be a list of {kind.__name__}, got {found!r:.80}")
    classes, groups = len(names["class_names"]), len(names["group_names"])
    for key in ("class_group", "class_split"):
        if key in lists and len(names[key]) != classes:
            raise ValueError(f"{len(names[key])} entries of {key} for {classes} classes")
    if not 0 <= min(names["class_group"]) <= max(names["class_group"]) < groups:
        raise ValueError(f"entries of class_group are not all in 0..{groups - 1}")
    unknown = set(names.get("class_split") or []) - set(PARTS)
    if unknown:
        raise ValueError(f"unknown splits {join_names(sorted(unknown))}")
    names.setdefault("class_split", None)


def _labels(path: Path, n: int) -> torch.Tensor:
    """The class of each of `n` rows."""
    if not path.is_file():
        raise FileNotFoundError(f"no label file {path}; {_AGAIN}")
    try:
        label = np.load(path, allow_pickle=False)
    except DAMAGED as error:
        raise ValueError(f"{path} is damaged or not an .npy file ({error}); {_AGAIN}") from error
    if not isinstance(label, np.ndarray) or label.dtype != np.int64 or label.shape != (n,):
        got = f"{label.dtype} {label.shape}" if isinstance(label, np.ndarray) else "an archive"
        raise ValueError(
            f"{path} should hold {n} labels, int64, one per image, got {got}; {_AGAIN}"
        )
    return torch.from_numpy(label)

"""CUB-200-2011: 11788 photographs of 200 kinds of birds.

Source: Wah et al. 2011. It has no published few-shot split of its own; see `chen_split`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..cache import expand
from ..images.files import BadImage, read_image
from ..pool import ClassPool
from ..validate import join_names
from .registry import SHORT, SPLITS, PublishedSet, Split, dataset

CUB = PublishedSet(
    name="cub",
    title="CUB-200-2011",
    papers=("wah2011cub", "chen2019closer"),
    side=84,
    classes={"train": 100, "validation": 50, "test": 50},
    images=11_788,
    files=(
        "images.txt, image_class_labels.txt, classes.txt, bounding_boxes.txt and images/ as "
        "unpacked from CUB_200_2011.tgz (also under CUB_200_2011/)"
    ),
    origin="Caltech Vision Lab, data set CUB-200-2011",
    split="of Chen et al. 2019",
)


class Birds(NamedTuple):
    """The tables: `classes` by number, and (file, class number, x y width height) per image."""

    classes: dict[int, str]
    images: list[tuple[Path, int, tuple[float, ...]]]


@dataset(CUB)
def read_cub(
    folder: Path,
    split: Split,
    *,
    size: int = 84,
    crop: bool = False,
    split_file: Path | str | None = None,
) -> ClassPool:
    """One split of CUB, uint8 (N, 3, size, size), resized without keeping proportions.

    `crop=True` cuts the photographs to their bounding boxes first. `split_file` is a JSON file with
    lists of class names, `{"train": [...], "val": [...], "test": [...]}`; without it the split is
    that of Chen et al. 2019 (see `chen_split`).

    Raises FileNotFoundError when the tables are not there, ValueError when they do not fit each
    other or a photograph cannot be read.
    """
    root = _root(folder, split)
    birds = _tables(root)
    if split_file is None:
        if len(birds.classes) != sum(CUB.classes.values()):
            raise ValueError(
                f"{root / 'classes.txt'}: expected 200 classes, found {len(birds.classes)}; to fix "
                "it unpack CUB_200_2011.tgz again, or give a split_file for a part of them"
            )
        parts = chen_split(list(birds.classes.values()))
    else:
        parts = _listed(expand(split_file), set(birds.classes.values()))
    names = parts[split]
    place = {name: k for k, name in enumerate(names)}
    chosen = [image for image in birds.images if birds.classes[image[1]] in place]
    label = torch.tensor([place[birds.classes[number]] for _, number, _ in chosen], device="cpu")
    empty = sorted(set(names) - {birds.classes[number] for _, number, _ in chosen})
    if empty:
        raise ValueError(
            f"{root / 'images.txt'}: expected images of every {split} class, found none of "
            f"{len(empty)}: {join_names(empty)}"
        )
    images = _photographs(chosen, size, crop)
    return ClassPool(
        images, label, names, torch.zeros(len(names), dtype=torch.int64, device="cpu"), ["all"]
    )


def chen_split(names: list[str]) -> dict[Split, list[str]]:
    """The split of "A closer look": of the sorted classes, counted from 0, the even ones train.

    Of the odd ones every other is for validation (1, 5, 9, ...) and the rest for testing (3, 7,
    11, ...): 100/50/50 classes of 200.

    Source: Chen et al. 2019, code (write_CUB_filelist.py).
    """
    ordered = sorted(names)
    return {"train": ordered[0::2], "validation": ordered[1::4], "test": ordered[3::4]}


def _root(folder: Path, split: Split) -> Path:
    for root in (folder, folder / "CUB_200_2011"):
        if (root / "images.txt").is_file():
            return root
    raise CUB.missing(folder, split)


def _tables(root: Path) -> Birds:
    classes = {int(k): name for k, name in _lines(root / "classes.txt", 2)}
    files = {int(k): file for k, file in _lines(root / "images.txt", 2)}
    numbers = {int(k): int(c) for k, c in _lines(root / "image_class_labels.txt", 2)}
    boxes = {int(k): tuple(map(float, b)) for k, *b in _lines(root / "bounding_boxes.txt", 5)}
    if set(files) != set(numbers) or set(files) != set(boxes):
        raise ValueError(
            f"{root}: expected the same image numbers in three tables, found {len(files)} in "
            f"images.txt, {len(numbers)} in image_class_labels.txt and {len(boxes)} in "
            "bounding_boxes.txt that are not the same; to fix it unpack CUB_200_2011.tgz again"
        )
    unknown = sorted(set(numbers.values()) - set(classes))
    if unknown:
        raise ValueError(f"{root}: classes {join_names(map(str, unknown))} are not in classes.txt")
    outside = [f for f in files.values() if Path(f).is_absolute() or ".." in Path(f).parts]
    if outside:
        raise ValueError(f"{root / 'images.txt'}: {join_names(outside)} lie outside of images/")
    return Birds(
        classes, [(root / "images" / files[k], numbers[k], boxes[k]) for k in sorted(files)]
    )


def _lines(path: Path, words: int) -> list[list[str]]:
    """The lines of a table, each of `words` words."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}; expected {CUB.files}: unpack CUB_200_2011.tgz again"
        )
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    bad = [i + 1 for i, line in enumerate(lines) if len(line) != words or not line[0].isdigit()]
    if bad:
        raise ValueError(
            f"{path}: expected a number and {words - 1} more words in every line, found otherwise "
            f"in line {join_names(map(str, bad))}"
        )
    return lines


def _listed(path: Path, known: set[str]) -> dict[Split, list[str]]:
    """The classes of each split, from a JSON file."""
    if not path.is_file():
        raise FileNotFoundError(f"no split file {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    lists: dict[Split, list[str]] = {}
    for split in SPLITS:
        found = content.get(SHORT[split], content.get(split)) if isinstance(content, dict) else None
        if not isinstance(found, list) or not found or not all(isinstance(n, str) for n in found):
            raise ValueError(
                f'{path}: expected {{"train": [...], "val": [...], "test": [...]}} with lists of '
                f"class names, found nothing like it for {SHORT[split]}"
            )
        lists[split] = found
    names = [name for found in lists.values() for name in found]
    unknown = sorted(set(names) - known)
    twice = sorted({name for name in names if names.count(name) > 1})
    if unknown or twice:
        raise ValueError(
            f"{path}: expected classes of classes.txt, each once, found {len(unknown)} unknown and "
            f"{len(twice)} repeated: {join_names(unknown + twice)}"
        )
    return lists


def _photographs(
    chosen: list[tuple[Path, int, tuple[float, ...]]], size: int, crop: bool
) -> Tensor:
    images = torch.empty(len(chosen), 3, size, size, dtype=torch.uint8, device="cpu")
    bad: list[str] = []
    for row, (path, _, box) in enumerate(chosen):
        try:
            images[row] = read_image(path, size, box=box if crop else None)
        except (BadImage, FileNotFoundError) as error:
            bad.append(str(error))
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(chosen)} photographs cannot be read: {join_names(bad)}"
        )
    return images

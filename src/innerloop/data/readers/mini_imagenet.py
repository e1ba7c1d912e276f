"""miniImageNet: 100 classes of ImageNet with 600 images each, 84 x 84 pixels, 64/16/20 classes.

Source: Vinyals et al. 2016; the split is that of Ravi, Larochelle 2017.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..pool import ClassPool
from ..validate import join_names
from .layout import as_numbers, from_array, from_files, number_labels, pickled_entries
from .registry import SHORT, PublishedSet, Split, dataset
from .unpickle import read_pickle

MINI = PublishedSet(
    name="mini-imagenet",
    title="miniImageNet",
    papers=("vinyals2016matching", "ravi2017lstm"),
    side=84,
    classes={"train": 64, "validation": 16, "test": 20},
    images=60_000,
    files=(
        "train.csv, val.csv and test.csv beside a folder images/ of jpg files; or "
        "mini-imagenet-cache-{train,val,test}.pkl; or "
        "miniImageNet_category_split_{train_phase_train,val,test}.pickle"
    ),
    origin=(
        "csv splits: twitter/meta-learning-lstm, and the images from ImageNet ILSVRC-2012; "
        "mini-imagenet-cache: renmengye/few-shot-ssl-public; category_split pickles: "
        "gidariss/FewShotWithoutForgetting and kjunelee/MetaOptNet"
    ),
)
_CATEGORY = {"train": "train_phase_train", "validation": "val", "test": "test"}


@dataset(MINI)
def read_mini_imagenet(folder: Path, split: Split) -> ClassPool:
    """One split of miniImageNet, uint8 (N, 3, 84, 84), classes in order of their names.

    Files of three kinds are understood, and looked for in this order: the cache
    `mini-imagenet-cache-SPLIT.pkl` (`image_data` and `class_dict`; SPLIT is val or validation), the
    pickle `miniImageNet_category_split_SPLIT.pickle` (`data` and `labels`), and `SPLIT.csv`
    (filename, label) with the jpg files of any size in `images/`, which are resized with LANCZOS
    and without keeping their proportions, as in Finn et al. 2017's script.

    Classes are called by their WordNet numbers, or by their label numbers in the second kind.

    Raises FileNotFoundError when there is none of them, ValueError when one is damaged or
    incomplete, naming the file.
    """
    for name in dict.fromkeys((SHORT[split], split)):
        cache = folder / f"mini-imagenet-cache-{name}.pkl"
        if cache.is_file():
            return _from_cache(cache, split)
    pickled = folder / f"miniImageNet_category_split_{_CATEGORY[split]}.pickle"
    if pickled.is_file():
        return from_labels(pickled, split, MINI)
    table = folder / f"{SHORT[split]}.csv"
    if table.is_file():
        return _from_csv(table, split)
    raise MINI.missing(folder, split)


def from_labels(path: Path, split: Split, facts: PublishedSet) -> ClassPool:
    """A pickled dictionary of `data`, images (N, side, side, 3), and `labels`, one per image."""
    data, labels = pickled_entries(read_pickle(path), ("data", "labels"), path)
    images = from_array(data, facts.side, path)
    label, distinct = number_labels(labels, len(images), path)
    return facts.pool(split, images, label, [f"class {k}" for k in distinct], path)


def _from_cache(path: Path, split: Split) -> ClassPool:
    data, members = pickled_entries(read_pickle(path), ("image_data", "class_dict"), path)
    images = from_array(data, MINI.side, path)
    if not isinstance(members, dict):
        raise ValueError(
            f"{path}: expected class_dict to be a dictionary from class to image numbers, found a "
            f"{type(members).__name__}"
        )
    by_name = {_text(name): rows for name, rows in members.items()}
    names = sorted(by_name)
    label = torch.full((len(images),), -1, device="cpu")
    for k, name in enumerate(names):
        label[_rows(by_name[name], len(images), name, path)] = k
    left = int((label < 0).sum())
    if left:
        raise ValueError(f"{path}: {left} of {len(images)} images belong to no class of class_dict")
    return MINI.pool(split, images, label, names, path)


def _rows(rows: Any, count: int, name: str, path: Path) -> Tensor:
    index = as_numbers(rows, f"image numbers of class {name}", path)
    if bool(((index < 0) | (index >= count)).any()):
        raise ValueError(f"{path}: the image numbers of class {name} are not all in 0..{count - 1}")
    return index


def _text(name: Any) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)


def _from_csv(path: Path, split: Split) -> ClassPool:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [line for line in csv.reader(file) if line]
    except csv.Error as error:
        raise ValueError(f"{path} is damaged or not a table ({error}); fetch it again") from error
    if not lines or [word.strip() for word in lines[0]] != ["filename", "label"]:
        raise ValueError(
            f"{path}: expected the first line `filename,label`, found "
            f"`{','.join(lines[0]) if lines else ''}`"
        )
    rows = [(line[0].strip(), line[-1].strip()) for line in lines[1:]]
    bad = [file for file, name in rows if Path(file).name != file or not file or not name]
    if bad or any(len(line) != 2 for line in lines[1:]):
        raise ValueError(
            f"{path}: expected lines `file name,class` without folders, found {join_names(bad)}"
        )
    names = sorted({name for _, name in rows})
    index = {name: k for k, name in enumerate(names)}
    label = torch.tensor([index[name] for _, name in rows], dtype=torch.int64, device="cpu")
    MINI.check_classes(split, names, path)  # before minutes are spent on decoding
    images = from_files([path.parent / "images" / file for file, _ in rows], MINI.side)
    return MINI.pool(split, images, label, names, path)

"""CIFAR-FS and FC100: the hundred classes of CIFAR-100, 600 images each of 32 x 32 pixels.

CIFAR-FS draws 64/16/20 classes at random; FC100 keeps superclasses together, 60/20/20 classes of
12/4/4 superclasses, so that test classes are far from training classes.

Source: Bertinetto et al. 2019 (CIFAR-FS); Oreshkin et al. 2018 (FC100).
"""

from __future__ import annotations

from pathlib import Path

import torch

from ..images.files import is_image
from ..pool import ClassPool
from ..validate import join_names
from .layout import from_files
from .mini_imagenet import from_labels
from .registry import SHORT, PublishedSet, Split, dataset

CIFAR_FS = PublishedSet(
    name="cifar-fs",
    title="CIFAR-FS",
    papers=("bertinetto2019r2d2",),
    side=32,
    classes={"train": 64, "validation": 16, "test": 20},
    images=60_000,
    files=(
        "data/CLASS/*.png with splits/bertinetto/{train,val,test}.txt (also under cifar100/); or "
        "CIFAR_FS_{train,val,test}.pickle"
    ),
    origin="folders: bertinetto/r2d2; pickles: kjunelee/MetaOptNet",
)
FC100 = PublishedSet(
    name="fc100",
    title="FC100",
    papers=("oreshkin2018tadam",),
    side=32,
    classes={"train": 60, "validation": 20, "test": 20},
    images=60_000,
    files="FC100_{train,val,test}.pickle",
    origin="ElementAI/TADAM; pickles: kjunelee/MetaOptNet",
)


@dataset(CIFAR_FS)
def read_cifar_fs(folder: Path, split: Split) -> ClassPool:
    """One split of CIFAR-FS, uint8 (N, 3, 32, 32).

    Either the folders `data/CLASS/*.png` and the class lists `splits/bertinetto/SPLIT.txt`, in
    `folder` or in its sub-folder `cifar100`, with classes in the order of the list; or the pickle
    `CIFAR_FS_SPLIT.pickle` with `data` and `labels`, whose classes have numbers for names.

    Raises FileNotFoundError when there is neither, ValueError when one is damaged or incomplete.
    """
    pickled = folder / f"CIFAR_FS_{SHORT[split]}.pickle"
    if pickled.is_file():
        return from_labels(pickled, split, CIFAR_FS)
    for root in (folder, folder / "cifar100"):
        listed = root / "splits" / "bertinetto" / f"{SHORT[split]}.txt"
        if listed.is_file():
            return _from_folders(root / "data", listed, split)
    raise CIFAR_FS.missing(folder, split)


@dataset(FC100)
def read_fc100(folder: Path, split: Split) -> ClassPool:
    """One split of FC100, uint8 (N, 3, 32, 32), from `FC100_SPLIT.pickle` (`data` and `labels`).

    Raises FileNotFoundError when it is not there, ValueError when it is damaged or incomplete.
    """
    pickled = folder / f"FC100_{SHORT[split]}.pickle"
    if not pickled.is_file():
        raise FC100.missing(folder, split)
    return from_labels(pickled, split, FC100)


def _from_folders(data: Path, listed: Path, split: Split) -> ClassPool:
    names = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines()]
    names = [name for name in names if name]
    wrong = [name for name in names if not (data / name).is_dir() or Path(name).name != name]
    if wrong or len(set(names)) < len(names):
        raise ValueError(
            f"{listed}: expected distinct names of folders in {data}, found no folder for "
            f"{len(wrong)} of {len(names)} lines: {join_names(wrong)}; lay the images out as "
            f"{data.name}/CLASS/*.png"
        )
    files = [sorted(p for p in (data / name).iterdir() if is_image(p)) for name in names]
    paths = [path for members in files for path in members]
    label = torch.arange(len(names), device="cpu").repeat_interleave(
        torch.tensor([*map(len, files)], device="cpu")
    )
    CIFAR_FS.check_classes(split, names, listed)
    return CIFAR_FS.pool(split, from_files(paths, CIFAR_FS.side), label, names, listed)

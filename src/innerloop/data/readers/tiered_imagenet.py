"""tieredImageNet: 608 classes of ImageNet in 34 categories that no two splits share.

351/97/160 classes and 20/6/8 categories, 448695/124261/206209 images of 84 x 84 pixels.

Source: Ren et al. 2018.
"""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cache import DAMAGED
from ..images.files import BadImage, open_image
from ..pool import ClassPool
from ..validate import join_names
from .layout import ROWS, as_list, as_numbers, check_rows, from_rows, number_labels, pickled_entries
from .registry import SHORT, PublishedSet, Split, dataset
from .unpickle import read_pickle

TIERED = PublishedSet(
    name="tiered-imagenet",
    title="tieredImageNet",
    papers=("ren2018tiered",),
    side=84,
    classes={"train": 351, "validation": 97, "test": 160},
    images=779_165,
    files=(
        "{train,val,test}_images_png.pkl or {train,val,test}_images.npz, and beside them "
        "{train,val,test}_labels.pkl"
    ),
    origin="renmengye/few-shot-ssl-public; npz files also with kjunelee/MetaOptNet",
)
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataset(TIERED)
def read_tiered_imagenet(folder: Path, split: Split) -> ClassPool:
    """One split of tieredImageNet, uint8 (N, 3, 84, 84), the categories as groups if known.

    Images are `SPLIT_images_png.pkl`, a list of PNG files, or else `SPLIT_images.npz` with an array
    `images`, which is decoded part by part. OpenCV wrote that array, so its channels are BGR; they
    are turned to RGB here, as few-shot code does that shows the images. Labels are
    `SPLIT_labels.pkl` with `label_specific` (and `label_specific_str`, `label_general`,
    `label_general_str`: names and categories), or with `labels`.

    The training images take 9.5 GB. ImageNet has classes of one name, and the numbers begin anew in
    each split, so classes are called `SPLIT/number name`.

    Raises FileNotFoundError when a file is missing, ValueError when one is damaged or incomplete.
    """
    png = folder / f"{SHORT[split]}_images_png.pkl"
    npz = folder / f"{SHORT[split]}_images.npz"
    labels = folder / f"{SHORT[split]}_labels.pkl"
    where = png if png.is_file() else npz
    if not where.is_file() or not labels.is_file():
        raise TIERED.missing(folder, split)
    label, names, groups = _labels(labels, split)
    TIERED.check_classes(split, names, labels)  # before minutes are spent on decoding
    images = _from_png(png) if where == png else _from_npz(npz)
    if len(images) != len(label):
        raise ValueError(
            f"expected as many images as labels, found {len(images)} in {where} and {len(label)} "
            f"in {labels}; to fix it fetch both again"
        )
    return TIERED.pool(split, images, label, names, where, groups)


def _labels(path: Path, split: Split) -> tuple[Tensor, list[str], tuple[Tensor, list[str]] | None]:
    """The label of each image, the names of the classes, and their categories where known."""
    content = read_pickle(path)
    if isinstance(content, dict) and "labels" in content:
        found = as_list(content["labels"], "labels", path)
        label, distinct = number_labels(found, len(found), path)
        return label, [f"class {k}" for k in distinct], None
    numbers, texts, general, categories = pickled_entries(
        content,
        ("label_specific", "label_specific_str", "label_general", "label_general_str"),
        path,
    )
    texts = as_list(texts, "label_specific_str", path)
    categories = as_list(categories, "label_general_str", path)
    label, distinct = number_labels(as_list(numbers, "label_specific", path), len(numbers), path)
    if distinct != [*range(len(texts))]:
        raise ValueError(
            f"{path}: expected the labels 0, 1, ... with one name in label_specific_str each, "
            f"found {len(distinct)} labels and {len(texts)} names"
        )
    names = [f"{split}/{k:03d} {_text(texts[k])}" for k in distinct]
    group = _groups(general, label, len(names), categories, path)
    return label, names, (group, [*map(_text, categories)])


def _from_png(path: Path) -> Tensor:
    files = read_pickle(path)
    if not isinstance(files, list) or not files:
        raise ValueError(
            f"{path}: expected a list of PNG files, found a {type(files).__name__}; it is not one "
            "of the published files"
        )
    bad: list[str] = []

    def decoded() -> Iterator[np.ndarray]:
        for row in range(len(files)):
            # Each is let go as soon as it is decoded.
            data, files[row] = files[row], None
            try:
                yield _decode_png(data)[None]
            except BadImage as error:
                bad.append(f"number {row} ({error})")
                yield np.zeros((1, TIERED.side, TIERED.side, 3), np.uint8)

    images = from_rows(decoded(), len(files), TIERED.side)
    if bad:
        raise ValueError(
            f"{path}: {len(bad)} of {len(files)} images cannot be read: {join_names(bad)}; fetch "
            "it again"
        )
    return images


def _decode_png(data: Any) -> np.ndarray:
    """One PNG file as uint8 (84, 84, 3); OpenCV hands them over as arrays (n, 1)."""
    if isinstance(data, np.ndarray) and data.dtype == np.uint8:
        data = data.tobytes()
    if not isinstance(data, bytes):  # bytes(10**10) would be ten gigabytes
        raise BadImage(f"expected the bytes of a PNG file, found a {type(data).__name__}")
    with open_image(io.BytesIO(data), ("PNG",)) as opened:
        if opened.size != (TIERED.side, TIERED.side):
            raise BadImage(f"expected {TIERED.side}x{TIERED.side} pixels, got {opened.size}")
        return np.asarray(opened.convert("RGB"))


def _from_npz(path: Path) -> Tensor:
    """The array `images`, read part by part: unpacked whole it would be there twice."""
    with path.open("rb") as raw:
        try:
            archive = zipfile.ZipFile(raw)
            file = archive.open("images.npy")
            shape, fortran, kind = _HEADERS[np.lib.format.read_magic(file)](file)
        except DAMAGED as error:
            raise ValueError(
                f"{path} is damaged or holds no array `images` ({error}); fetch it again"
            ) from error
        check_rows(shape, "column-major" if fortran else kind, TIERED.side, path)
        _check_room(shape[0], archive.getinfo("images.npy").file_size, path)

        def parts() -> Iterator[np.ndarray]:
            size = TIERED.side * TIERED.side * 3
            for start in range(0, shape[0], ROWS):
                count = min(ROWS, shape[0] - start)
                content = file.read(count * size)
                if len(content) < count * size:
                    raise EOFError(f"ends after {start} of {shape[0]} images")
                rows = np.frombuffer(content, np.uint8)
                yield rows.reshape(count, TIERED.side, TIERED.side, 3)[..., ::-1]

        try:
            return from_rows(parts(), shape[0], TIERED.side)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
            raise ValueError(f"{path} is damaged ({error}); fetch it again") from error


def _check_room(count: int, unpacked: int, path: Path) -> None:
    """Raises ValueError unless so many images can be in this file at all.

    What an entry of a zip says of its own size is checked as well: deflate makes 1 byte of at most
    1032.
    """
    size = count * TIERED.side * TIERED.side * 3
    if not size <= unpacked <= 1032 * path.stat().st_size:
        raise ValueError(
            f"{path} is damaged: {count} images of {size} bytes are announced, the file of "
            f"{path.stat().st_size} bytes cannot hold them; fetch it again"
        )


def _groups(general: Any, label: Tensor, classes: int, categories: Any, path: Path) -> Tensor:
    """The category of each class, int64 (classes,)."""
    numbers = as_numbers(general, "label_general", path)
    if numbers.shape != label.shape:
        raise ValueError(
            f"{path}: expected one category per image, found {numbers.shape} for {label.shape}"
        )
    group = torch.zeros(classes, dtype=torch.int64, device="cpu")
    group[label] = numbers
    torn = int((group[label] != numbers).sum())
    if torn or not 0 <= int(group.min()) <= int(group.max()) < len(categories):
        raise ValueError(
            f"{path}: label_general does not give every class one of {len(categories)} categories"
        )
    return group


def _text(name: Any) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)

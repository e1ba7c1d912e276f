"""Small files in exactly the published layouts: every class, few images, made-up pixels."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = {
    "mini-imagenet": {"train": 64, "val": 16, "test": 20},
    "tiered-imagenet": {"train": 351, "val": 97, "test": 160},
    "cifar-fs": {"train": 64, "val": 16, "test": 20},
    "fc100": {"train": 60, "val": 20, "test": 20},
}
FIRST = {"train": 0, "val": 64, "test": 80}
"""The first class number of each split of 64/16/20 classes."""


def pixels(number: int, side: int) -> np.ndarray:
    """An image of one colour that tells its number: R = number mod 256, G = number / 256, B = 9."""
    image = np.empty((side, side, 3), np.uint8)
    image[...] = (number % 256, number // 256, 9)
    return image


def grey(number: int, side: int) -> np.ndarray:
    """An image of one grey that tells its number even after it was a jpg file: 2 number + 10."""
    return np.full((side, side, 3), 2 * number + 10, np.uint8)


def told(image: np.ndarray) -> int:
    """The number that an image (3, side, side) of `pixels` or `grey` tells."""
    if int(image.max()) - int(image.min()) <= 2:
        return round((float(image.mean()) - 10) / 2)
    red, green, blue = (int(plane[0, 0]) for plane in image)
    assert blue == 9 and (image == image[:, :1, :1]).all()
    return red + 256 * green


def wnid(number: int) -> str:
    return f"n{1532829 + 1000 * number:08d}"


def write_pickle(path: Path, content: object, protocol: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def mini_csv(root: Path, per_class: int = 3) -> Path:
    """Ravi and Larochelle's lists, rows of classes mixed, with jpg files of several shapes."""
    (root / "images").mkdir(parents=True)
    for split, count in SIZES["mini-imagenet"].items():
        rows = []
        for i in range(per_class):
            for k in range(count):
                number = FIRST[split] + k
                name = f"{wnid(number)}{i + 1:08d}.jpg"
                image = Image.fromarray(grey(number, 12)).resize((10 + i, 8))
                image.save(root / "images" / name, quality=100)
                rows.append(f"{name},{wnid(number)}")
        (root / f"{split}.csv").write_text("\n".join(["filename,label", *rows]) + "\n")
    return root


def mini_cache(root: Path, per_class: int = 3, validation: str = "val") -> Path:
    """`mini-imagenet-cache-*.pkl`: `image_data` and `class_dict` from class to row numbers."""
    for split, count in SIZES["mini-imagenet"].items():
        numbers = [FIRST[split] + k for k in range(count) for _ in range(per_class)]
        content = {
            "image_data": np.stack([pixels(n, 84) for n in numbers]),
            "class_dict": {
                wnid(FIRST[split] + k): [*range(k * per_class, (k + 1) * per_class)]
                for k in reversed(range(count))
            },
        }
        word = validation if split == "val" else split
        write_pickle(root / f"mini-imagenet-cache-{word}.pkl", content)
    return root


def mini_category(root: Path, per_class: int = 3) -> Path:
    """`miniImageNet_category_split_*.pickle`: `data`, `labels`, and what else they hold."""
    words = {"train": "train_phase_train", "val": "val", "test": "test"}
    for split, count in SIZES["mini-imagenet"].items():
        numbers = [FIRST[split] + k for _ in range(per_class) for k in range(count)]
        content = {
            "data": np.stack([pixels(n, 84) for n in numbers]),
            "labels": numbers,
            "catname2label": {wnid(n): n for n in set(numbers)},
        }
        write_pickle(root / f"miniImageNet_category_split_{words[split]}.pickle", content)
    return root


def labelled(root: Path, name: str, dataset: str, per_class: int = 3) -> Path:
    """`NAME_{train,val,test}.pickle` of 32-pixel images: `data` and `labels`."""
    first = 0
    for split, count in SIZES[dataset].items():
        numbers = [first + k for _ in range(per_class) for k in range(count)]
        content = {"data": np.stack([pixels(n, 32) for n in numbers]), "labels": numbers}
        write_pickle(root / f"{name}_{split}.pickle", content)
        first += count
    return root


def cifar_folders(root: Path, per_class: int = 2) -> Path:
    """`data/CLASS/*.png` and the class lists under `splits/bertinetto`."""
    lists = root / "splits" / "bertinetto"
    lists.mkdir(parents=True)
    for split, count in SIZES["cifar-fs"].items():
        names = [f"thing_{FIRST[split] + k:02d}" for k in range(count)]
        (lists / f"{split}.txt").write_text("\n".join(reversed(names)) + "\n")
        for k, name in enumerate(names):
            (root / "data" / name).mkdir(parents=True)
            for i in range(per_class):
                image = Image.fromarray(pixels(FIRST[split] + k, 32))
                image.save(root / "data" / name / f"{i:03d}.png")
    return root


def tiered_labels(root: Path, per_class: int, *, plain: bool = False) -> dict[str, list[int]]:
    """`SPLIT_labels.pkl` for images class by class; returns the number that each image tells."""
    numbers, first = {}, 0
    for split, count in SIZES["tiered-imagenet"].items():
        own = [k for k in range(count) for _ in range(per_class)]
        numbers[split] = [first + k for k in own]
        content: dict[str, object] = {"labels": numbers[split]}
        if not plain:
            categories = {"train": 20, "val": 6, "test": 8}[split]
            content = {
                "label_specific": np.array(own, np.int32),
                "label_general": np.array([k % categories for k in own], np.int32),
                "label_specific_str": ["crane"] * 2 + [f"bird {k}" for k in range(2, count)],
                "label_general_str": [f"category {k}" for k in range(categories)],
            }
        write_pickle(root / f"{split}_labels.pkl", content)
        first += count
    return numbers


def tiered_png(root: Path, per_class: int = 2) -> Path:
    """`SPLIT_images_png.pkl`: a list of PNG files as arrays (n, 1), as OpenCV encodes them."""
    for split, numbers in tiered_labels(root, per_class).items():
        files = []
        for number in numbers:
            file = io.BytesIO()
            Image.fromarray(pixels(number, 84)).save(file, "PNG", compress_level=1)
            files.append(np.frombuffer(file.getvalue(), np.uint8)[:, None].copy())
        write_pickle(root / f"{split}_images_png.pkl", files)
    return root


def tiered_npz(root: Path, per_class: int = 2) -> Path:
    """`SPLIT_images.npz`: an array `images` with OpenCV's order of channels, blue first."""
    for split, numbers in tiered_labels(root, per_class, plain=True).items():
        images = np.stack([pixels(n, 84)[..., ::-1] for n in numbers])
        np.savez(root / f"{split}_images.npz", images=images)
    return root


def birds(root: Path, per_class: int = 2, classes: int = 200) -> Path:
    """CUB-200-2011 as unpacked; every photograph is its number in a box on a white ground."""
    tables: dict[str, list[str]] = {
        name: [] for name in ("classes", "images", "image_class_labels", "bounding_boxes")
    }
    number = 0
    for k in range(classes):
        name = f"{k + 1:03d}.Bird_{k}"
        (root / "images" / name).mkdir(parents=True)
        tables["classes"].append(f"{k + 1} {name}")
        for i in range(per_class):
            number += 1
            image = Image.new("RGB", (30, 20), "white")
            image.paste(Image.fromarray(pixels(k, 8)), (4 + i, 6))
            image.save(root / "images" / name / f"Bird_{k}_{i:04d}.png")
            tables["images"].append(f"{number} {name}/Bird_{k}_{i:04d}.png")
            tables["image_class_labels"].append(f"{number} {k + 1}")
            tables["bounding_boxes"].append(f"{number} {4 + i}.0 6.0 8.0 8.0")
    for name, lines in tables.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root

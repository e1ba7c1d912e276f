"""What a pool of labelled images must satisfy before a task is drawn from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .mapped import MappedRows
    from .pool import ClassPool


def join_names(items: Iterable[str], most: int = 8) -> str:
    """`a, b, c and 5 more`: the names an error shows, cut to a readable number."""
    words = list(items)
    rest = len(words) - most
    return ", ".join(words[:most]) + (f" and {rest} more" if rest > 0 else "")


def duplicates(names: Iterable[str]) -> list[str]:
    """Those that occur more than once, in order."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def check_images(images: Tensor | MappedRows) -> None:
    """Raises ValueError unless `images` is a non-empty (N, ...) of uint8 or floats."""
    if images.ndim < 2:
        raise ValueError(
            "images must have shape (N, channels, height, width), and rows of a table (N, d), got "
            f"{tuple(images.shape)}; add an axis with images[:, None] if a row is one number"
        )
    if 0 in images.shape:
        raise ValueError(f"images must not be empty, got shape {tuple(images.shape)}")
    if images.dtype != torch.uint8 and not images.dtype.is_floating_point:
        raise ValueError(
            f"images must be uint8 (0..255) or floating point, got {images.dtype}; "
            "convert with images.to(torch.uint8) or images.float()"
        )


def check_square(x_shape: Sequence[int]) -> None:
    """Raises ValueError unless one example is a (C, S, S) that can be turned by 90 degrees."""
    if len(x_shape) != 3 or x_shape[1] != x_shape[2]:
        raise ValueError(
            f"rotating by 90 degrees needs square images (channels, size, size), got {x_shape}"
        )


def check_labels(label: Tensor, n_images: int, class_names: Sequence[str]) -> None:
    """Raises ValueError unless there is one int64 label in [0, n_classes) for every image."""
    if label.dtype != torch.int64 or label.shape != (n_images,):
        raise ValueError(
            f"label must be int64 of shape ({n_images},), one per image, "
            f"got {label.dtype} of shape {tuple(label.shape)}"
        )
    wrong = label[(label < 0) | (label >= len(class_names))]
    if len(wrong):
        values = join_names(str(v) for v in sorted(set(wrong.tolist())))
        raise ValueError(
            f"{len(wrong)} of {n_images} labels are out of range [0, {len(class_names)}): "
            f"{values}; labels index class_names"
        )
    twice = duplicates(class_names)
    if twice:
        raise ValueError(
            f"class names must be distinct, {len(twice)} occur twice: {join_names(twice)}"
        )


def check_groups(class_group: Tensor, n_classes: int, group_names: Sequence[str]) -> None:
    """Raises ValueError unless every class belongs to one of the named groups."""
    if class_group.dtype != torch.int64 or class_group.shape != (n_classes,):
        raise ValueError(
            f"class_group must be int64 of shape ({n_classes},), one per class, "
            f"got {class_group.dtype} of shape {tuple(class_group.shape)}"
        )
    wrong = class_group[(class_group < 0) | (class_group >= len(group_names))]
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} of {n_classes} classes have a group out of range "
            f"[0, {len(group_names)}): {join_names(str(v) for v in sorted(set(wrong.tolist())))}"
        )


def check_finite(images: Tensor, label: Tensor, class_names: Sequence[str]) -> None:
    """Raises ValueError naming the classes whose images hold NaN or infinite pixels."""
    if images.dtype == torch.uint8:
        return
    bad = ~torch.isfinite(images).flatten(1).all(1)
    if bad.any():
        classes = sorted({class_names[i] for i in label[bad].tolist()})
        raise ValueError(
            f"{int(bad.sum())} of {len(images)} images hold NaN or infinite pixels, in "
            f"{len(classes)} classes: {join_names(classes)}; remove them or fill the gaps"
        )


def check_examples(pool: ClassPool, needed: int, why: str) -> None:
    """Raises ValueError naming the classes of `pool` with fewer than `needed` images."""
    counts = pool.counts.tolist()
    short = [
        f"{name} ({c})" for name, c in zip(pool.class_names, counts, strict=True) if c < needed
    ]
    if short:
        raise ValueError(
            f"{len(short)} of {len(counts)} classes have fewer than {needed} images ({why}): "
            f"{join_names(short)}; ask for fewer shots or queries, or drop them with "
            f"pool.with_at_least({needed})"
        )


def check_disjoint(pools: Mapping[str, ClassPool], by: Literal["class", "group"] = "class") -> None:
    """Raises ValueError naming what two splits share: test classes must be new to the learner."""
    names = {split: set(_names(pool, by)) for split, pool in pools.items()}
    splits = list(names)
    for i, first in enumerate(splits):
        for second in splits[i + 1 :]:
            shared = sorted(names[first] & names[second])
            if shared:
                many = "classes" if by == "class" else "groups"
                raise ValueError(
                    f"{len(shared)} {many} are in both {first} and {second}: {join_names(shared)}; "
                    f"a {by} may be in one split only"
                )


def _names(pool: ClassPool, by: Literal["class", "group"]) -> list[str]:
    if by == "class":
        return list(pool.class_names)
    return [pool.group_names[i] for i in pool.class_group.unique().tolist()]

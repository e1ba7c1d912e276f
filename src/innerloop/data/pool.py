"""Labelled images, in memory or on disk: what classification tasks are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .mapped import MappedRows
from .validate import check_finite, check_groups, check_images, check_labels, check_square


@dataclass(frozen=True, eq=False)
class ClassPool:
    """Images with one class each, the classes in groups (alphabet, script, region).

    `images` is (N, ...), such as (N, C, H, W) or, for the rows of a table, (N, d); uint8 in 0..255
    or floating point; in memory, or `MappedRows`, which stay on disk. `label` is int64 (N,), an
    index into `class_names`; `class_group` is int64 (n_classes,), an index into `group_names`.
    Classes may have different sizes and rows may come in any order.

    Raises ValueError for a wrong shape or dtype, labels or groups out of range, class names that
    occur twice, and values in memory that are not finite. (Those on disk are not read for that:
    `PoolWriter` refused them.)
    """

    images: Tensor | MappedRows
    label: Tensor
    class_names: list[str]
    class_group: Tensor
    group_names: list[str]

    def __post_init__(self) -> None:
        check_images(self.images)
        check_labels(self.label, len(self.images), self.class_names)
        check_groups(self.class_group, len(self.class_names), self.group_names)
        if not isinstance(self.images, MappedRows):
            check_finite(self.images, self.label, self.class_names)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[1:])

    @cached_property
    def counts(self) -> Tensor:
        """Images per class, int64 (n_classes,)."""
        return torch.bincount(self.label, minlength=self.n_classes)

    @cached_property
    def rows(self) -> Tensor:
        """Row numbers sorted by class: class k owns `counts[k]` of them from `starts[k]`."""
        return self.label.argsort(stable=True)

    @cached_property
    def starts(self) -> Tensor:
        """Where each class begins in `rows`, int64 (n_classes,)."""
        return self.counts.cumsum(0) - self.counts

    def stored(self, rows: Tensor, device: torch.device) -> Tensor:
        """Those images on `device`, as they are stored; int64 `rows` are where the images are.

        From disk they go to an accelerator without waiting, as the bytes they are.
        """
        if not isinstance(self.images, MappedRows):
            return self.images.index_select(0, rows).to(device)
        cuda = device.type == "cuda"
        return self.images.read(rows, pinned=cuda).to(device, non_blocking=cuda)

    def select(self, classes: Sequence[int] | Tensor) -> ClassPool:
        """The pool of these classes only, in this order; groups keep their numbers."""
        wanted = torch.as_tensor(classes, dtype=torch.int64, device="cpu")
        new = torch.full((self.n_classes,), -1, device="cpu")
        new[wanted] = torch.arange(len(wanted), device="cpu")
        label = new[self.label]
        kept = (label >= 0).nonzero().squeeze(1)
        return ClassPool(
            images=self.images[kept.to(self.images.device)],
            label=label[kept],
            class_names=[self.class_names[i] for i in wanted.tolist()],
            class_group=self.class_group[wanted],
            group_names=self.group_names,
        )

    def with_at_least(self, n: int) -> ClassPool:
        """Without the classes that have fewer than `n` images. Raises when none is left."""
        kept = (self.counts >= n).nonzero().squeeze(1)
        if not len(kept):
            raise ValueError(
                f"no class has {n} images, the largest has {int(self.counts.max())}; ask for fewer"
            )
        return self.select(kept)

    def inverted(self) -> ClassPool:
        """Ink for paper: 255 - x, or 1 - x for floating point images."""
        if isinstance(self.images, MappedRows):
            return replace(self, images=self.images.inverted())
        top = 255 if self.images.dtype == torch.uint8 else 1
        return replace(self, images=top - self.images)

    def to(self, device: torch.device | str) -> ClassPool:
        """The same pool, images in the memory of `device`; labels stay where draws are made.

        Raises ValueError when images that were on disk do not fit.
        """
        return replace(self, images=self.images.to(device))


def scaled(images: Tensor) -> Tensor:
    """uint8 in 0..255 to float32 in [0, 1]; floating point images are passed on as they are."""
    return images.float().mul_(1 / 255) if images.dtype == torch.uint8 else images


def with_rotated_classes(pool: ClassPool) -> ClassPool:
    """Four classes for one: every class turned by 0, 90, 180 and 270 degrees is its own class.

    Class k turned r times is class `r * n_classes + k`, named `name@90` and so on. Quadruples the
    memory. Raises ValueError for images that are not square, and for those on disk.

    Source: Santoro et al. 2016 (MANN), section 4; Vinyals et al. 2016; Reptile's released code.
    """
    check_square(pool.x_shape)
    images = pool.images
    if isinstance(images, MappedRows):
        raise ValueError(
            "four classes for one need the images in memory four times; read them with "
            'pool.to("cpu"), or turn them as they are drawn with Episodes(..., rotate="augment")'
        )
    n = pool.n_classes
    return ClassPool(
        images=torch.cat([torch.rot90(images, r, (-2, -1)) for r in range(4)]),
        label=torch.cat([pool.label + r * n for r in range(4)]),
        class_names=[
            name if r == 0 else f"{name}@{90 * r}" for r in range(4) for name in pool.class_names
        ],
        class_group=pool.class_group.repeat(4),
        group_names=pool.group_names,
    )

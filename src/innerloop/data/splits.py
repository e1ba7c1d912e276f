"""From pools of labelled images to training, validation and test tasks that share no class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..core.streams import generator
from .images.episodes import Augment, Episodes, Rotate
from .pool import ClassPool
from .source import Splits
from .validate import check_disjoint, check_examples

Fractions = tuple[float, float, float]


@dataclass
class Skipped:
    """What `skip_bad` left out, in words; empty when nothing was wrong."""

    files: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.files or self.classes)

    def __str__(self) -> str:
        """What is added to the name of the data: nothing, or the counts."""
        if not self:
            return ""
        return f", skipped {len(self.files)} files and {len(self.classes)} classes"

    def lines(self) -> list[str]:
        """One line per thing left out."""
        return [f"skipped file {f}" for f in self.files] + [
            f"skipped class {c}" for c in self.classes
        ]


def few_shot(
    pools: Mapping[str, ClassPool],
    *,
    way: int,
    shot: int,
    queries: int,
    rotate: Rotate,
    augment: Augment,
    invert: bool,
    within_group: bool,
    device: torch.device | str | None,
    name: str,
    split_by: str,
) -> Splits:
    """`Episodes` on each of the three pools; `rotate` and `augment` act on training tasks only.

    `name` is what the data is called, `split_by` how its classes were split. Raises ValueError for
    a class (with `within_group`, a group) in two pools, and what `Episodes` raises.
    """
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
            split=f"{part} {split_by}",
        )
        for part, pool in pools.items()
    }
    return Splits(sources["train"], sources["validation"], sources["test"])


def with_enough_images(pool: ClassPool, needed: int, skip_bad: bool, skipped: Skipped) -> ClassPool:
    """`pool` if every class has `needed` images; with `skip_bad`, the classes that have."""
    if not skip_bad:
        check_examples(pool, needed, "shot + queries")
        return pool
    skipped.classes += [
        f"{name} ({count} images, {needed} needed)"
        for name, count in zip(pool.class_names, pool.counts.tolist(), strict=True)
        if count < needed
    ]
    return pool.with_at_least(needed)


def split_classes(
    pool: ClassPool, fractions: Fractions, seed: int, by_group: bool
) -> dict[str, ClassPool]:
    """Classes (or whole groups) shuffled by `seed` and cut at the fractions."""
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions must be three positive numbers that sum to 1, got {fractions}")
    units = pool.class_group.unique() if by_group else torch.arange(pool.n_classes, device="cpu")
    many = "groups" if by_group else "classes"
    n = len(units)
    test, validation = max(1, round(n * fractions[2])), max(1, round(n * fractions[1]))
    if test + validation >= n:
        raise ValueError(
            f"{n} {many} shared out by {fractions} leave none for training; at least 3 are needed, "
            "or make the folders train, val and test yourself"
        )
    order = units[torch.randperm(n, generator=generator(seed, "folder", "split"), device="cpu")]
    parts: dict[str, torch.Tensor] = {
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

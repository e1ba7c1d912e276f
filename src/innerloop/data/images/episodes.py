"""Few-shot classification tasks drawn from a pool of labelled images."""

from __future__ import annotations

import inspect
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ...core import types
from ...core.types import Batch, Task
from ..draw import distinct
from ..mapped import MappedRows
from ..pool import ClassPool, scaled
from ..source import Source, Spec
from ..transfer import to_device
from ..validate import check_examples, check_square, join_names
from .augment import flip_shift, rotated

Rotate = Literal["none", "augment"]
Augment = Literal["none", "flip-shift"]


class Draw(NamedTuple):
    """Which images make T tasks: class of each label, and row and label of each example."""

    classes: Tensor
    """(T, way): `classes[t, j]` is the pool's class that task t calls j."""
    support_rows: Tensor
    support_y: Tensor
    query_rows: Tensor
    query_y: Tensor
    turns: Tensor
    """(T, way): quarter turns of each class."""


class Episodes(Source):
    """`way`-way `shot`-shot tasks: classes, then different images of each, drawn without repeats.

    Rows of support and query are grouped by class, the classes in random order. `x` leaves as
    float32 (T, n, C, H, W), in [0, 1] when the pool holds uint8; `y` is int64 (T, n). The rows of
    a table leave as (T, n, d) in the same way.

    `rotate="augment"` turns each class of each task by one random multiple of 90 degrees (MAML's
    augmentation: two turns of one class are never contrasted). `augment="flip-shift"` mirrors and
    moves each image on its own. `within_group=True` takes all classes of a task from one group,
    drawn uniformly among the groups with at least `way` classes.

    Images in memory are moved to `device` once, whole, and taken there by indexing; images on disk
    stay there, and each task reads its own (`pool.to(device)` moves these whole as well). Which
    ones is decided on the CPU, so a seed gives the same tasks on every device; the numbers of the
    rows follow in one copy, and no draw waits for an accelerator.
    `name` and `split` only serve `describe`.

    Raises ValueError for a way the pool or every group is too small for, and for classes with
    fewer than shot + queries images, with their names.
    """

    def __init__(
        self,
        pool: ClassPool,
        *,
        way: int,
        shot: int,
        queries: int,
        rotate: Rotate = "none",
        augment: Augment = "none",
        within_group: bool = False,
        device: torch.device | str | None = None,
        name: str = "images",
        split: str = "all",
    ) -> None:
        _check_settings(pool, way, shot, queries, rotate, augment, split)
        self.device = pool.images.device if device is None else torch.device(device)
        on_disk = isinstance(pool.images, MappedRows)
        self.pool = pool if device is None or on_disk else pool.to(device)
        self.way, self.shot, self.queries = way, shot, queries
        self.rotate, self.augment, self.within_group = rotate, augment, within_group
        self.name, self.split = name, split
        self.spec = Spec("classification", pool.x_shape, way)
        self._members = pool.class_group.argsort(stable=True)
        sizes = torch.bincount(pool.class_group, minlength=len(pool.group_names))
        self._groups, self.left_out = _usable_groups(pool, sizes, way if within_group else 1)
        if within_group:
            self.groups = tuple(pool.group_names[i] for i in self._groups.tolist())
        self._group_size = sizes
        self._group_start = sizes.cumsum(0) - sizes

    def sample(self, generator: torch.Generator, n: int) -> Task:
        """`n` stacked tasks; the (CPU) generator alone decides which."""
        return self.rows(generator, n, 0, n)

    def rows(self, generator: torch.Generator, n: int, first: int, stop: int) -> Task:
        """As `Source.rows`: of the other tasks only the numbers are drawn, no image is read."""
        if self.augment == "flip-shift" and stop - first < n:  # it draws for each image of all
            return types.rows(self.sample(generator, n), slice(first, stop))
        draw = Draw(*(part[first:stop] for part in self.draw(generator, n)))
        rows, y = [draw.support_rows, draw.query_rows], [draw.support_y, draw.query_y]
        turns = [draw.turns.gather(1, labels).flatten() for labels in y]
        if isinstance(self.pool.images, MappedRows):
            y = to_device(y, self.device)
        else:
            together = to_device([*rows, *y], self.device)
            rows, y = together[:2], together[2:]
        support, query = (self._batch(rows[i], y[i], turns[i], generator) for i in (0, 1))
        return Task(support, query)

    def replace(
        self,
        *,
        pool: ClassPool | None = None,
        way: int | None = None,
        shot: int | None = None,
        queries: int | None = None,
        within_group: bool | None = None,
        name: str | None = None,
        split: str | None = None,
    ) -> Episodes:
        """The same tasks with what is given here changed; what is None stays.

        Every other setting is taken over, whatever settings there are. Raises what building does.
        """
        changes = {
            "pool": pool,
            "way": way,
            "shot": shot,
            "queries": queries,
            "within_group": within_group,
            "name": name,
            "split": split,
        }
        ours = {key: getattr(self, key) for key in inspect.signature(type(self)).parameters}
        return Episodes(**ours | {k: v for k, v in changes.items() if v is not None})

    def draw(self, generator: torch.Generator, n: int) -> Draw:
        """The first half of `sample`: which classes and rows make the next `n` tasks."""
        if n < 1:
            raise ValueError(f"the number of tasks must be at least 1, got {n}")
        if generator.device.type != "cpu":
            raise ValueError(
                "tasks are drawn with a CPU generator, so that a seed means the same tasks on any "
                f"device; got one on {generator.device}, use torch.Generator()"
            )
        classes = self._draw_classes(generator, n)
        picked = distinct(self.pool.counts[classes], self.shot + self.queries, generator)
        rows = self.pool.rows[self.pool.starts[classes].unsqueeze(-1) + picked]
        order = torch.rand(2, n, self.way, generator=generator, device="cpu").argsort(-1)
        turns = torch.zeros(n, self.way, dtype=torch.int64, device="cpu")
        if self.rotate == "augment":
            turns = torch.randint(0, 4, (n, self.way), generator=generator, device="cpu")
        return Draw(
            classes,
            *_in_class_order(rows[..., : self.shot], order[0]),
            *_in_class_order(rows[..., self.shot :], order[1]),
            turns,
        )

    def task_groups(self, generator: torch.Generator, n: int) -> Tensor:
        """As `Source.task_groups`: the group of the classes of each task, with `within_group`."""
        if not self.within_group:
            return super().task_groups(generator, n)
        before = generator.get_state()
        classes = self._draw_classes(generator, n)
        generator.set_state(before)
        return torch.searchsorted(self._groups, self.pool.class_group[classes[:, 0]])

    def describe(self) -> dict[str, str]:
        """Everything that decides which tasks come out, as words."""
        description = {
            "source": self.name,
            "split": self.split,
            "way": str(self.way),
            "shot": str(self.shot),
            "queries": str(self.queries),
            "classes": str(self.pool.n_classes),
            "images": str(len(self.pool)),
            "x_shape": "x".join(map(str, self.spec.x_shape)),
            "rotate": self.rotate,
            "augment": self.augment,
            "within_group": str(self.within_group).lower(),
        }
        if self.within_group:
            description["groups"] = str(len(self._groups))
        if self.left_out:
            description["left_out_groups"] = ", ".join(self.left_out)
        return description

    def _draw_classes(self, generator: torch.Generator, n: int) -> Tensor:
        if not self.within_group:
            size = torch.full((n,), self.pool.n_classes, device="cpu")
            return distinct(size, self.way, generator)
        group = self._groups[
            torch.randint(len(self._groups), (n,), generator=generator, device="cpu")
        ]
        within = distinct(self._group_size[group], self.way, generator)
        return self._members[self._group_start[group].unsqueeze(-1) + within]

    def _batch(self, rows: Tensor, y: Tensor, turns: Tensor, generator: torch.Generator) -> Batch:
        """`rows` lie where the pool's images do, `y` on the source's device, `turns` on the CPU."""
        images = self.pool.stored(rows.flatten(), self.device)
        if self.rotate == "augment":
            images = rotated(images, turns)
        if self.augment == "flip-shift":
            images = flip_shift(images, generator)
        return Batch(scaled(images).unflatten(0, rows.shape), y)


def _in_class_order(rows: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (T, way, k) in the class order (T, way): rows and labels, (T, way * k) each."""
    t, way, k = rows.shape
    arranged = rows.gather(1, order.unsqueeze(-1).expand(t, way, k))
    return arranged.flatten(1), order.repeat_interleave(k, dim=1)


def _usable_groups(pool: ClassPool, sizes: Tensor, way: int) -> tuple[Tensor, list[str]]:
    """Groups with at least `way` classes, and the names (and sizes) of the smaller ones."""
    usable = (sizes >= way).nonzero().squeeze(1)
    small = [
        f"{pool.group_names[i]} ({int(sizes[i])})"
        for i in range(len(sizes))
        if 0 < int(sizes[i]) < way
    ]
    if not len(usable):
        raise ValueError(
            f"within_group=True needs a group with {way} classes; the {len(small)} groups have "
            f"fewer: {join_names(small)}; use a smaller way or within_group=False"
        )
    return usable, small


def _check_settings(
    pool: ClassPool, way: int, shot: int, queries: int, rotate: str, augment: str, split: str
) -> None:
    if way < 2:
        raise ValueError(
            f"way must be at least 2: one class leaves nothing to tell apart, got {way}"
        )
    if shot < 1:
        raise ValueError(f"shot must be at least 1: the support set would be empty, got {shot}")
    if queries < 1:
        raise ValueError(f"queries must be at least 1: the query set would be empty, got {queries}")
    if way > pool.n_classes:
        raise ValueError(
            f"way is {way} but split '{split}' has {pool.n_classes} classes: "
            f"{join_names(pool.class_names)}; "
            "use a smaller way or add classes"
        )
    if rotate not in get_args(Rotate):
        raise ValueError(f"rotate must be one of {', '.join(get_args(Rotate))}, got {rotate!r}")
    if augment not in get_args(Augment):
        raise ValueError(f"augment must be one of {', '.join(get_args(Augment))}, got {augment!r}")
    if rotate != "none":
        check_square(pool.x_shape)
    if augment != "none" and len(pool.x_shape) != 3:
        raise ValueError(
            f"augment={augment!r} needs images (channels, height, width), got {pool.x_shape}; "
            "use augment='none'"
        )
    check_examples(pool, shot + queries, f"{split}: shot {shot} + queries {queries}")

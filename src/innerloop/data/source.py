"""What every source of tasks offers, and a list of tasks as one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.types import Batch, Task, concat, count, examples, leaf, leaves, rows, shapes, to

PARTS = ("train", "validation", "test")

Tasks = Task | Sequence[Task]
"""Stacked tasks, or a sequence of them that may have different shapes."""


@dataclass(frozen=True)
class Spec:
    """The shape of one example.

    `x_shape` is the shape of one input, such as `(1, 28, 28)`; `outputs` is the number of classes
    of a task (its way) or the last dimension of a regression target. `y_shape` is the shape of one
    label: `()` where an example has one class, `(height, width)` where each of its pixels has one,
    and `(outputs,)` for the numbers of a regression, if nothing else is said.

    Raises ValueError for another kind, outputs below 1, and regression targets that do not end in
    `outputs` numbers.
    """

    kind: Literal["classification", "regression"]
    x_shape: tuple[int, ...]
    outputs: int
    y_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("classification", "regression"):
            raise ValueError(f"kind must be 'classification' or 'regression', got {self.kind!r}")
        if self.outputs < 1:
            raise ValueError(f"outputs must be at least 1, got {self.outputs}")
        if self.y_shape is None:
            shape = () if self.kind == "classification" else (self.outputs,)
            object.__setattr__(self, "y_shape", shape)
        elif self.kind == "regression" and (1, *self.y_shape)[-1] != self.outputs:
            raise ValueError(
                f"y_shape of a regression must end in outputs = {self.outputs}, got {self.y_shape}"
            )

    @property
    def dense(self) -> bool:
        """Whether an example has many labels, one for each place, as in segmentation."""
        return self.kind == "classification" and bool(self.y_shape)


class Source(ABC):
    """An endless supply of tasks; every draw is a function of the generator passed in.

    `groups` names the groups that tasks are drawn from, each as likely as any other (alphabets,
    bins of an amplitude); it is empty where tasks have no group.
    """

    spec: Spec
    groups: tuple[str, ...] = ()

    @abstractmethod
    def sample(self, generator: torch.Generator, n: int) -> Task:
        """`n` stacked tasks, on the source's device; the generator alone decides which."""

    def tasks(self, generator: torch.Generator, n: int) -> Tasks:
        """`n` tasks as `sample` gives them, or a list of them where their shapes differ."""
        return self.sample(generator, n)

    def rows(self, generator: torch.Generator, n: int, first: int, stop: int) -> Tasks:
        """Tasks `first` to `stop` of those that `tasks` gives: what one of several ranks takes.

        Raises ValueError for a source that makes one batch of all its tasks.
        """
        tasks = self.tasks(generator, n)
        if (count(tasks.support.x) if isinstance(tasks, Task) else len(tasks)) != n:
            raise ValueError(
                f"{type(self).__name__} makes one batch of its {n} tasks, which ranks cannot "
                "share; expected one process: --workers 1"
            )
        chosen = slice(first, stop)
        return rows(tasks, chosen) if isinstance(tasks, Task) else tasks[chosen]

    def task_groups(self, generator: torch.Generator, n: int) -> Tensor:
        """Which of `groups` each of the next `n` tasks comes from, int64 (n,).

        Those that `sample` draws with the generator as it stands, and as it is left standing.
        Raises ValueError where tasks have no group.
        """
        raise ValueError(
            f"the tasks of {type(self).__name__} have no groups; draw the classes of each task "
            "from one group (data.within_alphabet, data.within_script or data.within_group "
            "= true), or use data.kind=sine_groups"
        )

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Name, way, shot, queries, split, sizes: what a result must say about its data."""


class TaskList(Source):
    """A list of tasks as a source: each draw takes some of them, none twice while others are left.

    Every task has a task axis: leaves (T, n, ...), where T may be 1, and may differ in everything
    else: the number of examples, of classes, the shape of an input. `tasks` stacks what it drew if
    the shapes agree, and gives a list of single tasks (T = 1) in the order drawn if they do not;
    `sample` then raises ValueError.

    `spec` is read from the tasks unless it is given: regression where labels are floating point,
    else as many classes as the largest label says (give it where a label such as 255 means "none");
    shapes are those of the first task, of the first tensor where an input is a tree.

    Raises ValueError that names the task for anything else than tasks, leaves without a task axis,
    and numbers of tasks or examples that differ within one task.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        name: str = "tasks",
        spec: Spec | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if isinstance(tasks, Task) or not isinstance(tasks, Sequence) or not tasks:
            raise ValueError(
                "expected a list of innerloop.Task(support=Batch(x, y), query=Batch(x, y)), got "
                + (f"an empty {type(tasks).__name__}" if tasks == [] else type(tasks).__name__)
            )
        self.name = name
        sizes = [_check_task(task, i) for i, task in enumerate(tasks)]
        self.spec = _spec(tasks) if spec is None else spec
        self._tasks: list[Task] = []
        for task, size in zip(tasks, sizes, strict=True):
            there = task if device is None else to(task, device)
            self._tasks += [rows(there, slice(k, k + 1)) for k in range(size)]

    def __len__(self) -> int:
        return len(self._tasks)

    def sample(self, generator: torch.Generator, n: int) -> Task:
        """As `tasks`, of tasks that can be stacked."""
        drawn = self.tasks(generator, n)
        if not isinstance(drawn, Task):
            raise ValueError(
                f"{len(drawn)} tasks of different shapes cannot be stacked; use "
                "tasks(generator, n), which gives a list of them, or sample(generator, 1)"
            )
        return drawn

    def tasks(self, generator: torch.Generator, n: int) -> Tasks:
        """`n` tasks in random order; with more than there are, every one comes as often."""
        return self.rows(generator, n, 0, n)

    def rows(self, generator: torch.Generator, n: int, first: int, stop: int) -> Tasks:
        """As `Source.rows`."""
        if n < 1:
            raise ValueError(f"the number of tasks must be at least 1, got {n}")
        rounds = [
            torch.randperm(len(self), generator=generator, device="cpu")
            for _ in range(-(-n // len(self)))
        ]
        drawn = [self._tasks[i] for i in torch.cat(rounds)[first:stop].tolist()]
        alike = len({shapes(task) for task in drawn}) == 1
        return concat(drawn) if alike else drawn

    def describe(self) -> dict[str, str]:
        """Name, number of tasks, and how many examples they have."""
        numbers: dict[str, str] = {}
        for part, word in (("support", "support"), ("query", "queries")):
            sizes = {examples(getattr(task, part)) for task in self._tasks}
            few, most = min(sizes), max(sizes)
            numbers[word] = str(few) if few == most else f"{few}..{most}"
        return {
            "source": self.name,
            "tasks": str(len(self)),
            **numbers,
            "x_shape": "x".join(map(str, self.spec.x_shape)),
            "outputs": str(self.spec.outputs),
        }


def as_source(value: Source | Sequence[Task], *, name: str = "tasks") -> Source:
    """`value` itself if it is a source, or a `TaskList` of the tasks in a list or tuple.

    Raises ValueError that says what to type for anything else.
    """
    if isinstance(value, Source):
        return value
    if isinstance(value, Task):
        raise ValueError("expected a source or a list of tasks, got one Task; type [task]")
    if isinstance(value, Splits):
        raise ValueError(
            "expected one source of tasks, got Splits, which are three; type splits.train, "
            "splits.validation or splits.test"
        )
    if isinstance(value, list | tuple):
        return TaskList(value, name=name)
    raise ValueError(
        f"expected a source of tasks or a list of them, got {type(value).__name__}; type "
        "[innerloop.Task(support=Batch(x, y), query=Batch(x, y)), ...], or a subclass of "
        "innerloop.data.source.Source"
    )


def _check_task(task: Any, number: int) -> int:
    """The number T of tasks that are stacked here. Raises ValueError if this is no task."""
    if not isinstance(task, Task) or not all(isinstance(part, Batch) for part in task):
        raise ValueError(
            f"task {number}: expected innerloop.Task(support=Batch(x, y), query=Batch(x, y)), got "
            f"{type(task).__name__}"
        )
    sizes = set()
    for name, batch in zip(task._fields, task, strict=True):
        for word, tree in zip(batch._fields, batch, strict=True):
            found = leaves(tree)
            if not found and word != "weight":
                raise ValueError(f"task {number}: {name}.{word} holds no tensor")
            short = [tuple(tensor.shape) for tensor in found if tensor.ndim < 2]
            if short:
                raise ValueError(
                    f"task {number}: {name}.{word} should be (T, n, ...) with a task axis, got "
                    f"{short[0]}; for one task type {word}[None]"
                )
            sizes |= {len(tensor) for tensor in found}
        per_example = (leaf(batch.x), leaf(batch.y), *leaves(batch.weight))
        counts = {tensor.shape[1] for tensor in per_example}
        if len(counts) > 1 or 0 in counts:
            raise ValueError(
                f"task {number}: x, y and weight of {name} should have as many examples, one at "
                f"least, got {sorted(counts)}"
            )
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(
            f"task {number}: support and query should hold as many tasks, one at least, got "
            f"{sorted(sizes)} along the first axis; for one task type x[None], y[None]"
        )
    return sizes.pop()


def _spec(tasks: Sequence[Task]) -> Spec:
    """What the tasks of a list say of themselves."""
    first = tasks[0].support
    x_shape, y_shape = (tuple(leaf(tree).shape[2:]) for tree in (first.x, first.y))
    labels = [leaf(batch.y) for task in tasks for batch in task]
    if labels[0].is_floating_point():
        return Spec("regression", x_shape, y_shape[-1] if y_shape else 1, y_shape)
    return Spec("classification", x_shape, 1 + max(0, *(int(y.max()) for y in labels)), y_shape)


@dataclass(frozen=True)
class Splits:
    """Three sources whose classes (or task distributions) are kept apart.

    `auxiliary` gives labelled examples of lasting classes beside the training tasks, one batch per
    draw, for methods with a discriminator (DEML).
    """

    train: Source
    validation: Source
    test: Source
    auxiliary: Source | None = None

    @property
    def trained_outputs(self) -> int:
        """Outputs of what is trained: the lasting classes where there are some, else a task's."""
        return (self.auxiliary or self.train).spec.outputs

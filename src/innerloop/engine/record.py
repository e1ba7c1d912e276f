"""Recorded meta-gradients: as one tape, or as tapes of the parts that every inner step repeats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..call import ModelCall
from ..call.slots import placed, slots
from ..core import trees
from ..core.contract import (
    Learner,
    MetaGradientFunction,
    Objective,
    OuterWeights,
    Point,
    Sweeping,
)
from ..core.types import Batch, MetaGradient, Params, Task, leaves, mapped
from .tape import Part, Tape

LONG = 8
"""Inner steps from which a step is recorded once, in place of all of them one behind the other."""


class Kept:
    """What every tape reads beside its arguments: the models' buffers and the learner's own."""

    def __init__(self, learner: Learner, objective: Objective, calls: Sequence[ModelCall]):
        self.calls = calls
        of_models = {id(b) for call in calls for b in call.buffers().values()}
        self._slots = [
            slot
            for owner in (learner, objective)
            for slot in slots(
                owner, {k: k for k, b in owner.named_buffers() if id(b) not in of_models}
            )
        ]

    def values(self) -> list[Part]:
        buffers = [t for call in self.calls for t in call.buffers().values()]
        own = [home[key] for home, key, _ in self._slots]
        return [buffers, own]

    def given(self, buffers: list[Tensor], own: list[Tensor]) -> ExitStack:
        """A context in which these stand in the places of the real ones."""
        stack, left = ExitStack(), iter(buffers)
        for call in self.calls:
            stack.enter_context(call.given_buffers([next(left) for _ in call.buffers()]))
        named = [(home, key, str(i)) for i, (home, key, _) in enumerate(self._slots)]
        stack.enter_context(placed(named, {str(i): t for i, t in enumerate(own)}))
        return stack


class Record(ABC):
    """What a meta-gradient function does to one chunk of tasks, for all chunks of its kind."""

    def __init__(self, kept: Kept, meta: Params):
        self._kept = kept
        self._learned = {k: v.requires_grad for k, v in meta.items()}
        self.tapes: list[Tape] = []

    @abstractmethod
    def __call__(self, meta: Params, tasks: Task, weights: OuterWeights) -> MetaGradient:
        """The meta-gradient summed over the tasks, as the function itself returns it."""

    @property
    def operations(self) -> int:
        return sum(tape.operations for tape in self.tapes)

    def hasten(self, compiled: bool) -> bool:
        """Compile the tapes, or make them CUDA graphs; whether anything was done."""
        return all([tape.hasten(compiled) for tape in self.tapes])

    def check(
        self,
        eager: MetaGradient,
        meta: Params,
        tasks: Task,
        weights: OuterWeights,
        *,
        tolerance: float | None = None,
    ) -> None:
        """Refuse a record that does not repeat what the eager run of the same chunk gave.

        `tolerance` is the distance over the size of the gradient; by default near rounding. A run
        that is not finite cannot be compared, and is for the caller to notice.
        """
        replayed = self(meta, tasks, weights)
        if not torch.isfinite(eager.loss):
            return
        scale = max((float(g.norm()) for g in eager.grads.values()), default=0.0)
        apart = max(
            (float((g - replayed.grads[k]).norm()) for k, g in eager.grads.items()), default=0.0
        )
        loss = abs(float(replayed.loss - eager.loss))
        apart, scale = apart + loss, scale + abs(float(eager.loss))
        if tolerance is None:
            tolerance = 100 * torch.finfo(eager.loss.dtype).eps ** 0.75
        if not apart <= tolerance * scale:
            raise ValueError(
                f"the recorded meta-gradient is {apart:.1e} from the eager one, of size "
                f"{scale:.1e}: the model computes something else on its second call, or reads "
                'values in Python. Use engine="eager"'
            )

    def _tape(self, function: Callable[..., Iterable[Part]], meta: Params, *inputs: Part) -> Tape:
        """A tape of `function(meta, *inputs)`, all buffers inputs as well."""

        def run(
            values: Params, buffers: list[Tensor], own: list[Tensor], *rest: Part
        ) -> Iterable[Part]:
            fresh = {k: v.detach().requires_grad_(self._learned[k]) for k, v in values.items()}
            with self._kept.given(buffers, own):
                return function(fresh, *rest)

        made = Tape(run, *self._held(meta), *inputs)
        self.tapes.append(made)
        return made

    def _held(self, meta: Params) -> list[Part]:
        return [trees.detach(meta), *self._kept.values()]


class Data:
    """Tasks as a flat list of tensors, and back."""

    def __init__(self, tree: Any):
        flat, self._spec = tree_flatten(tree)
        self._places = [i for i, v in enumerate(flat) if isinstance(v, Tensor)]
        self._others = [None if isinstance(v, Tensor) else v for v in flat]

    def flat(self, tree: Any) -> list[Tensor]:
        return [v.contiguous() for v in leaves(tree)]

    def tree(self, tensors: list[Tensor]) -> Any:
        values: list[Any] = list(self._others)
        for i, tensor in zip(self._places, tensors, strict=True):
            values[i] = tensor
        return tree_unflatten(values, self._spec)


class Whole(Record):
    """One tape of everything the function does."""

    def __init__(
        self,
        function: MetaGradientFunction,
        kept: Kept,
        meta: Params,
        tasks: Task,
        weights: OuterWeights,
    ):
        super().__init__(kept, meta)
        self._data = data = Data((tasks, weights))

        def run(meta: Params, tensors: list[Tensor]) -> Iterable[Part]:
            found = function(meta, *data.tree(tensors))
            return found.loss, found.grads, found.stats

        self._run = self._tape(run, meta, data.flat((tasks, weights)))

    def __call__(self, meta: Params, tasks: Task, weights: OuterWeights) -> MetaGradient:
        flat = self._data.flat((tasks, weights))
        return MetaGradient(*self._run(*self._held(meta), flat))


class Stepped(Record):
    """A sweep over tapes of one step and of one turn, in place of all steps behind each other.

    Recording and compiling take no longer for many steps than for one. The sweep is the eager one:
    this stands in the place of its turns.
    """

    def __init__(self, sweep: Sweeping, kept: Kept, meta: Params, tasks: Task, names: list[str]):
        super().__init__(kept, meta)
        turns = sweep.turns
        self.learner, self.path = turns.learner, turns.path
        self._names = names
        self._support, self._tasks = Data(tasks.support), Data(tasks)
        support, everything = self._support.flat(tasks.support), self._tasks.flat(tasks)

        def start(meta: Params, given: list[Tensor]) -> Iterable[Part]:
            point = turns.start(trees.detach(meta), self._support.tree(given))
            return point.phi, point.state

        def step(meta: Params, phi: Params, state: Params, given: list[Tensor]) -> Iterable[Part]:
            at = Point(0, phi, state)
            after = turns.step(trees.detach(meta), at, self._support.tree(given))
            return after.phi, after.state

        def outer(
            meta: Params, phi: Params, state: Params, given: list[Tensor], weight: Tensor
        ) -> Iterable[Part]:
            at = Point(self.path.steps, phi, state)
            found = turns.outer(meta, at, self._tasks.tree(given), weight)
            return found.losses, trees.filled(found.lam, phi), found.direct, found.stats

        def turn(
            meta: Params, phi: Params, state: Params, lam: Params, mu: Params, given: list[Tensor]
        ) -> Iterable[Part]:
            at = Point(0, phi, state)
            found = turns.turn(meta, at, lam, mu, self._support.tree(given), True)
            return trees.filled(found[0], phi), trees.filled(found[1], state), found[2]

        def end(meta: Params, lam: Params, given: list[Tensor]) -> Iterable[Part]:
            return [turns.end(meta, lam, self._support.tree(given))]

        held = self._held(meta)
        self._start = self._tape(start, meta, support)
        phi, state = (
            {k: v.clone() for k, v in part.items()} for part in self._start(*held, support)
        )
        self._step = self._tape(step, meta, phi, state, support)
        one = next(iter(phi.values())).new_ones(())
        self._outer = self._tape(outer, meta, phi, state, everything, one)
        lam = self._outer(*held, phi, state, everything, one)[1]
        if sweep.exact > 0:  # first order runs where second derivatives do not exist
            mu = trees.zeros_like(state)
            self._turn = self._tape(turn, meta, phi, state, lam, mu, support)
        self._end = self._tape(end, meta, lam, support)
        self._judged = type(turns.outer(trees.detach(meta), Point(0, phi, state), tasks, None))
        self._sweep = sweep.over(self)

    def __call__(self, meta: Params, tasks: Task, weights: OuterWeights) -> MetaGradient:
        found = self._sweep(meta, tasks, weights)
        return MetaGradient(
            found.loss, {k: found.grads[k] for k in self._names}, found.stats, found.memory
        )

    def start(self, meta: Params, support: Batch) -> Point:
        return Point(0, *self._start(*self._held(meta), self._support.flat(support)))

    def step(self, meta: Params, point: Point, support: Batch) -> Point:
        given = self._support.flat(support)
        after = self._step(*self._held(meta), point.phi, point.state, given)
        return Point(point.t + 1, *after)

    def outer(self, meta: Params, point: Point, tasks: Task, weight: Tensor | None) -> Any:
        given = self._tasks.flat(tasks)
        one = next(iter(point.phi.values())).new_ones(()) if weight is None else weight
        found = self._outer(*self._held(meta), point.phi, point.state, given, one)
        return self._judged(*found)

    def turn(
        self, meta: Params, point: Point, lam: Params, mu: Params, support: Batch, exact: bool
    ) -> tuple[Params, Params, Params]:
        mu = mu or trees.zeros_like(point.state)
        given = self._support.flat(support)
        found = self._turn(*self._held(meta), point.phi, point.state, lam, mu, given)
        return found[0], found[1], found[2]

    def end(self, meta: Params, lam: Params, support: Batch) -> Params:
        (found,) = self._end(*self._held(meta), lam, self._support.flat(support))
        return found


def record(
    function: MetaGradientFunction,
    kept: Kept,
    meta: Params,
    tasks: Task,
    weights: OuterWeights,
    names: list[str],
) -> Record:
    """What `function` does to these tasks; `names` are those of the gradients it gives."""
    if isinstance(function, Sweeping) and weights == OuterWeights() and function.repeats(LONG):
        return Stepped(function, kept, meta, tasks, names)
    return Whole(function, kept, meta, tasks, weights)


def altered(tasks: Task) -> Task:
    """Tasks of the same kind with other values: what Python read from the first ones shows."""

    def labels(y: Tensor) -> Tensor:
        y = y.clone()
        y[:, 0] = y[:, -1]
        return y

    def other(batch: Batch) -> Batch:
        x = mapped(lambda v: v.flip(1) * 0.5 if v.is_floating_point() else v.flip(1), batch.x)
        return Batch(x, mapped(labels, batch.y), batch.weight)

    return Task(other(tasks.support), other(tasks.query))

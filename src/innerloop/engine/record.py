"""Recorded meta-gradients: as one tape, or as tapes of the parts that every inner step repeats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..call import slots as functional
from ..call.model import ModelCall
from ..core import path as loop
from ..core import trees
from ..core.contract import Estimator, IterativeLearner, Learner
from ..core.curvature import Where
from ..core.path import Point
from ..core.types import Batch, MetaGradient, Params, Task
from ..estimate.sweep import Adjoint, FirstOrder, outer_gradient, pull_start, pull_step, spacing
from ..learn import GradientLearner
from .tape import Tape, Tree

LONG = 8
"""Inner steps from which a step is recorded once, in place of all of them one behind the other."""

KEPT_BYTES = 2**26
"""States kept between the two passes: more than the eager sweep keeps, for speed is asked for."""


class Record(ABC):
    """What `estimator` does to one chunk of tasks, for all chunks of the same kind."""

    def __init__(self, estimator: Estimator, call: ModelCall, learner: Learner, meta: Params):
        self._call = call
        own = {k: k for k, _ in learner.named_buffers() if not k.startswith("model.")}
        self._slots = functional.slots(learner, own)
        self._learned = {k: v.requires_grad for k, v in meta.items()}
        self.tapes: list[Tape] = []

    @abstractmethod
    def __call__(self, meta: Params, tasks: Task) -> MetaGradient:
        """The meta-gradient summed over the tasks, as the estimator returns it."""

    @property
    def operations(self) -> int:
        return sum(tape.operations for tape in self.tapes)

    def hasten(self, compiled: bool) -> bool:
        """Compile the tapes, or make them CUDA graphs; whether anything was done."""
        return all([tape.hasten(compiled) for tape in self.tapes])

    def check(
        self, eager: MetaGradient, meta: Params, tasks: Task, *, tolerance: float | None = None
    ) -> None:
        """Refuse a record that does not repeat what the eager run of the same chunk gave.

        `tolerance` is the distance over the size of the gradient; by default near rounding.
        """
        replayed = self(meta, tasks)
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

    def _tape(self, function: Callable[..., Iterable[Tree]], meta: Params, *inputs: Tree) -> Tape:
        """A tape of `function(meta, *inputs)`, its buffers inputs as well."""

        def run(values: Params, buffers: list[Tensor], own: Params, *rest: Tree) -> Iterable[Tree]:
            leaves = {k: v.detach().requires_grad_(self._learned[k]) for k, v in values.items()}
            with self._call.given_buffers(buffers), functional.placed(self._slots, own):
                return function(leaves, *rest)

        made = Tape(run, *self._held(meta), *inputs)
        self.tapes.append(made)
        return made

    def _held(self, meta: Params) -> list[Tree]:
        """What every tape reads: meta-parameters, the model's buffers, the learner's own."""
        own = {name: home[key] for home, key, name in self._slots}
        return [trees.detach(meta), list(self._call.buffers().values()), own]


class Whole(Record):
    """One tape of everything the estimator does."""

    def __init__(
        self, estimator: Estimator, call: ModelCall, learner: Learner, meta: Params, tasks: Task
    ):
        super().__init__(estimator, call, learner, meta)

        def run(leaves: Params, *data: Tensor) -> Iterable[Tree]:
            found = estimator(learner, leaves, _task(*data))
            return found.loss, found.grads, found.stats

        self._run = self._tape(run, meta, *_data(tasks))

    def __call__(self, meta: Params, tasks: Task) -> MetaGradient:
        return MetaGradient(*self._run(*self._held(meta), *_data(tasks)))


class _Turns:
    """What the sweep of gradient descent at a constant rate does, part by part."""

    def __init__(self, learner: IterativeLearner, sweep: Adjoint):
        self.learner, self.sweep = learner, sweep

    def start(self, leaves: Params, *support: Tensor) -> Iterable[Tree]:
        """phi_0."""
        with torch.no_grad():
            return [self.learner.start(trees.detach(leaves), Batch(*support))]

    def step(self, leaves: Params, phi: Params, *support: Tensor) -> Iterable[Tree]:
        """phi_{t+1} from phi_t."""
        point = Point(0, phi, {})
        after = loop.advance(self.learner, trees.detach(leaves), Batch(*support), point, 1)
        return [next(after).phi]

    def outer(self, leaves: Params, phi: Params, *data: Tensor) -> Iterable[Tree]:
        """The outer loss, lam, the direct gradient in meta, stats."""
        tasks = _task(*data)
        outcome, lam, direct = outer_gradient(self.learner, leaves, phi, tasks)
        lam = {k: lam[k] if k in lam else torch.zeros_like(v) for k, v in phi.items()}
        return outcome.losses.sum(), lam, direct, loop.summary(outcome, tasks)

    def turn(self, leaves: Params, phi: Params, lam: Params, *support: Tensor) -> Iterable[Tree]:
        """lam before step t from lam after it, and what the step adds to the gradient in meta."""
        where = Where(self.learner, leaves, 0, phi, Batch(*support))
        inner = self.sweep.curvature.at(where)
        pulled, _, found = pull_step(where, Point(0, phi, {}), lam, {}, inner)
        return {k: pulled[k] for k in phi}, found

    def end(self, leaves: Params, lam: Params, *support: Tensor) -> Iterable[Tree]:
        """What the start adds to the gradient in meta."""
        return [pull_start(self.learner, leaves, Batch(*support), lam)]


class Stepped(Record):
    """The sweep of gradient descent at a constant rate, from tapes of one step and of one turn.

    Recording and compiling take no longer for many steps than for one.
    """

    def __init__(
        self,
        estimator: Adjoint | FirstOrder,
        call: ModelCall,
        learner: IterativeLearner,
        meta: Params,
        tasks: Task,
        names: list[str],
    ):
        super().__init__(estimator, call, learner, meta)
        sweep = estimator if isinstance(estimator, Adjoint) else Adjoint(last=0)
        self._names, self._steps = names, learner.steps
        self._every = sweep.store_every or spacing(
            learner, trees.detach(meta), tasks.support, limit=KEPT_BYTES
        )
        self._first = 0 if sweep.last is None else max(0, learner.steps - sweep.last)
        turns, held, data = _Turns(learner, sweep), self._held(meta), _data(tasks)
        self._start = self._tape(turns.start, meta, *data[:2])
        (phi,) = self._start(*held, *data[:2])
        phi = {k: v.clone() for k, v in phi.items()}
        self._step = self._tape(turns.step, meta, phi, *data[:2])
        self._outer = self._tape(turns.outer, meta, phi, *data)
        lam = self._outer(*held, phi, *data)[1]
        if self._first < self._steps:  # first order runs where second derivatives do not exist
            self._turn = self._tape(turns.turn, meta, phi, lam, *data[:2])
        self._end = self._tape(turns.end, meta, lam, *data[:2])

    def __call__(self, meta: Params, tasks: Task) -> MetaGradient:
        held, data = self._held(meta), _data(tasks)
        support = data[:2]
        kept: dict[int, Params] = {}
        (phi,) = self._start(*held, *support)
        for t in range(self._steps):
            if t % self._every == 0 and t + self._every > self._first:
                kept[t] = phi
            (phi,) = self._step(*held, phi, *support)
        loss, lam, total, stats = self._outer(*held, phi, *data)
        for t in reversed(range(self._first, self._steps)):
            lam, found = self._turn(*held, self._phi(t, kept, held, support), lam, *support)
            total = trees.merge(total, found)
        (found,) = self._end(*held, lam, *support)
        total = trees.merge(total, found)
        return MetaGradient(loss, {k: total[k] for k in self._names}, stats)

    def _phi(
        self, t: int, kept: dict[int, Params], held: list[Tree], support: list[Tensor]
    ) -> Params:
        """phi_t, never asked for again; what lies between a kept one and it is recomputed."""
        nearest = max(s for s in kept if s <= t)
        for s in range(nearest, t):
            (kept[s + 1],) = self._step(*held, kept[s], *support)
        return kept.pop(t)


def record(
    estimator: Estimator,
    call: ModelCall,
    learner: Learner,
    meta: Params,
    tasks: Task,
    names: list[str],
) -> Record:
    """What `estimator` does to these tasks; `names` are those of the gradients it gives."""
    if (
        isinstance(estimator, Adjoint | FirstOrder)
        and isinstance(learner, IterativeLearner)
        and learner.plain
        and type(learner).inner_losses is GradientLearner.inner_losses  # whatever the step
        and learner.tolerance is None
        and learner.outer_weights() is None
        and learner.steps >= LONG
    ):
        return Stepped(estimator, call, learner, meta, tasks, names)
    return Whole(estimator, call, learner, meta, tasks)


def altered(tasks: Task) -> Task:
    """Tasks of the same kind with other values: what Python read from the first ones shows."""

    def other(batch: Batch) -> Batch:
        x, y = batch.x.flip(1), batch.y.clone()
        y[:, 0] = y[:, -1]
        return Batch(x * 0.5 if x.is_floating_point() else x, y)

    return Task(other(tasks.support), other(tasks.query))


def _task(*data: Tensor) -> Task:
    return Task(Batch(*data[:2]), Batch(*data[2:]))


def _data(tasks: Task) -> list[Tensor]:
    return [t.contiguous() for batch in tasks for t in batch]

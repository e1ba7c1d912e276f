"""Recorded meta-gradients: as one tape, or as tapes of the parts that every inner step repeats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from .core import loop, trees
from .core.contract import Estimator, IterativeLearner, Learner
from .core.loop import Point
from .core.types import Batch, MetaGradient, Params, Task
from .estimate.curvature import Where
from .estimate.sweep import Adjoint, FirstOrder, outer_gradient, pull_start, pull_step, spacing
from .learn import GradientLearner, functional
from .learn.model_call import ModelCall
from .tape import Inputs, Tape

LONG = 8
"""Inner steps from which a step is recorded once, in place of all of them one behind the other."""

KEPT_BYTES = 2**26
"""States kept between the two passes: more than the eager sweep keeps, for speed is asked for."""


class Record(ABC):
    """What `estimator` does to one chunk of tasks, for all chunks of the same kind."""

    def __init__(self, estimator: Estimator, call: ModelCall, learner: Learner, meta: Params):
        self._call = call
        self._own = {k: k for k, _ in learner.named_buffers() if not k.startswith("model.")}
        self._slots = functional.slots(learner, self._own)
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

    def _tape(
        self, function: Callable[..., list[Tensor]], meta: Params, *inputs: list[Tensor] | Tensor
    ) -> Tape:
        """A tape of `function(meta, *inputs)`, its buffers inputs as well."""

        def run(
            values: list[Tensor], buffers: list[Tensor], held: list[Tensor], *rest: Tensor
        ) -> list[Tensor]:
            leaves = {
                k: v.detach().requires_grad_(learned)
                for (k, learned), v in zip(self._learned.items(), values, strict=True)
            }
            settings = dict(zip(self._own, held, strict=True))
            with self._call.given_buffers(buffers), functional.placed(self._slots, settings):
                return function(leaves, *rest)

        made = Tape(run, *self._held(meta), *inputs)
        self.tapes.append(made)
        return made

    def _held(self, meta: Params) -> Inputs:
        """What every tape reads: meta-parameters, the model's buffers, the learner's own."""
        held = [home[key] for home, key, _ in self._slots]
        buffers = list(self._call.buffers().values())
        return [v.detach() for v in meta.values()], buffers, held


class Whole(Record):
    """One tape of everything the estimator does."""

    def __init__(
        self, estimator: Estimator, call: ModelCall, learner: Learner, meta: Params, tasks: Task
    ):
        super().__init__(estimator, call, learner, meta)
        self._names: list[str] = []
        self._stats: list[str] = []

        def run(leaves: Params, *data: Tensor) -> list[Tensor]:
            found = estimator(learner, leaves, _task(*data))
            self._names, self._stats = list(found.grads), list(found.stats)
            return [found.loss, *found.grads.values(), *found.stats.values()]

        self._run = self._tape(run, meta, *_data(tasks))

    def __call__(self, meta: Params, tasks: Task) -> MetaGradient:
        loss, *rest = self._run(*self._held(meta), *_data(tasks))
        grads = dict(zip(self._names, rest, strict=False))
        return MetaGradient(loss, grads, dict(zip(self._stats, rest[len(grads) :], strict=True)))


class _Turns:
    """What the sweep of gradient descent at a constant rate does, as functions of lists.

    phi and lam are in the order of `phi_names`; the other names are of the last call.
    """

    def __init__(self, learner: IterativeLearner, sweep: Adjoint):
        self.learner, self.sweep = learner, sweep
        self.phi_names: list[str] = []
        self.direct: list[str] = []
        self.stats: list[str] = []
        self.found: list[str] = []
        self.pulled: list[str] = []

    def start(self, leaves: Params, *support: Tensor) -> list[Tensor]:
        """phi_0."""
        with torch.no_grad():
            phi = self.learner.start(trees.detach(leaves), Batch(*support))
        self.phi_names = list(phi)
        return list(phi.values())

    def step(self, leaves: Params, phi: list[Tensor], *support: Tensor) -> list[Tensor]:
        """phi_{t+1} from phi_t."""
        fixed, point = trees.detach(leaves), Point(0, self._named(phi), {})
        after = loop.advance(self.learner, fixed, Batch(*support), point, 1)
        return list(next(after).phi.values())

    def outer(self, leaves: Params, phi: list[Tensor], *data: Tensor) -> list[Tensor]:
        """The outer loss, lam, the direct gradient in meta, stats."""
        at, tasks = self._named(phi), _task(*data)
        outcome, lam, direct = outer_gradient(self.learner, leaves, at, tasks)
        stats = loop.summary(outcome, tasks)
        self.direct, self.stats = list(direct), list(stats)
        lams = [lam[k] if k in lam else torch.zeros_like(v) for k, v in at.items()]
        return [outcome.losses.sum(), *lams, *direct.values(), *stats.values()]

    def turn(
        self, leaves: Params, phi: list[Tensor], lam: list[Tensor], *support: Tensor
    ) -> list[Tensor]:
        """lam before step t from lam after it, and what the step adds to the gradient in meta."""
        point = Point(0, self._named(phi), {})
        where = Where(self.learner, leaves, 0, point.phi, Batch(*support))
        inner = self.sweep.curvature.at(where)
        pulled, _, found = pull_step(where, point, self._named(lam), {}, inner)
        self.found = list(found)
        return [*(pulled[k] for k in self.phi_names), *found.values()]

    def end(self, leaves: Params, lam: list[Tensor], *support: Tensor) -> list[Tensor]:
        """What the start adds to the gradient in meta."""
        found = pull_start(self.learner, leaves, Batch(*support), self._named(lam))
        self.pulled = list(found)
        return list(found.values())

    def _named(self, values: list[Tensor]) -> Params:
        return dict(zip(self.phi_names, values, strict=True))


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
        self._turns = turns = _Turns(learner, sweep)
        data, held = _data(tasks), self._held(meta)
        self._start = self._tape(turns.start, meta, *data[:2])
        phi = [t.clone() for t in self._start(*held, *data[:2])]
        self._step = self._tape(turns.step, meta, phi, *data[:2])
        self._outer = self._tape(turns.outer, meta, phi, *data)
        lam = self._outer(*held, phi, *data)[1 : 1 + len(phi)]
        if self._first < self._steps:  # first order runs where second derivatives do not exist
            self._turn = self._tape(turns.turn, meta, phi, lam, *data[:2])
        self._end = self._tape(turns.end, meta, lam, *data[:2])

    def __call__(self, meta: Params, tasks: Task) -> MetaGradient:
        held, data = self._held(meta), _data(tasks)
        kept: dict[int, list[Tensor]] = {}
        phi = self._start(*held, *data[:2])
        count = len(phi)
        for t in range(self._steps):
            if t % self._every == 0 and t + self._every > self._first:
                kept[t] = phi
            phi = self._step(*held, phi, *data[:2])
        loss, *rest = self._outer(*held, phi, *data)
        lam, rest = rest[:count], rest[count:]
        total = dict(zip(self._turns.direct, rest, strict=False))
        stats = dict(zip(self._turns.stats, rest[len(total) :], strict=True))
        for t in reversed(range(self._first, self._steps)):
            rest = self._turn(*held, self._phi(t, kept, held, data), lam, *data[:2])
            lam, found = rest[:count], rest[count:]
            total = trees.merge(total, dict(zip(self._turns.found, found, strict=True)))
        pulled = self._end(*held, lam, *data[:2])
        total = trees.merge(total, dict(zip(self._turns.pulled, pulled, strict=True)))
        return MetaGradient(loss, {k: total[k] for k in self._names}, stats)

    def _phi(
        self, t: int, kept: dict[int, list[Tensor]], held: Inputs, data: list[Tensor]
    ) -> list[Tensor]:
        """phi_t, never asked for again; what lies between a kept one and it is recomputed."""
        nearest = max(s for s in kept if s <= t)
        for s in range(nearest, t):
            kept[s + 1] = self._step(*held, kept[s], *data[:2])
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

"""Recorded meta-gradients: one chunk's whole computation as a flat list of tensor operations.

The first chunk of a kind runs eagerly; then the same Python is run once more under `make_fx`, which
writes down every tensor operation of the inner loop, the outer loss and the sweep. Later chunks
replay the list: no module calls, no autograd, no graph in memory, each value dropped after its last
use. It is pruned first: derivatives that nothing reads are not computed. The list can be handed to
PyTorch's compiler as one graph without breaks.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal, cast, get_args

import torch
from torch import nn

from ..call.model import ModelCall, differentiable_kernels
from ..core import streams
from ..core.contract import Estimator, IterativeLearner, Learner
from ..core.types import MetaGradient, Params, Task
from .record import Record, altered, record

log = logging.getLogger("innerloop")

Engine = Literal["eager", "traced", "compiled"]
Precision = Literal["float32", "bfloat16"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENAS = -1, -3, -8
"""The numbers of glibc's malloc.h."""

TURN = threading.RLock()


@contextlib.contextmanager
def running(learner: Learner, *, training: bool = True) -> Iterator[None]:
    """What a learner needs to run: the user's modes, one seed per call, differentiable kernels.

    Unless `training`, model and solver are in eval mode: no dropout in layers or gradients.

    One at a time: a functional call sets weights in a module tree and kernels are chosen for the
    whole process, so threads take turns.
    """
    call = _model(learner)
    with TURN, torch.inference_mode(False):
        call.follow_modes(training)
        solver = getattr(learner, "solver", None)
        modules = list(solver.modules()) if isinstance(solver, nn.Module) else []
        before = [module.training for module in modules]
        seed = streams.common(int(torch.randint(2**62, ())))
        try:
            for module in modules:
                module.training = module.training and training
            with call.holding(), seed, differentiable_kernels(recurrent=not call.batchable):
                yield
        finally:
            for module, was in zip(modules, before, strict=True):
                module.training = was


class Recorder(Estimator):
    """`estimator`, recorded for each kind of chunk it meets; the results agree to rounding.

    A kind is the shapes, types and device of the tasks, the learner's train/eval flags, what is
    learned, and what the progress of training has changed (`phase`). Python values (a learning
    rate, the number of steps, what a loss closes over) are recorded as they are at the first call.
    `compiled` passes the record through PyTorch's compiler, which needs a C++ compiler on a CPU and
    takes from ten seconds to minutes, once per kind.

    Raises ValueError, saying why, where a computation depends on values: random layers, inner
    tolerances, mini-batched supports, solver states that outlive the task, iterative linear solves.
    """

    def __init__(self, estimator: Estimator, *, compiled: bool = False):
        keep_freed_memory()
        self.needs = estimator.needs
        self.estimator = estimator
        self.compiled = compiled
        self._records: dict[tuple[object, ...], Record] = {}

    def __call__(self, learner: Learner, meta: Params, tasks: Task) -> MetaGradient:
        return self.prepared(learner, meta, [tasks])(learner, meta, tasks)

    def prepared(
        self, learner: Learner, meta: Params, chunks: list[Task]
    ) -> Callable[[Learner, Params, Task], MetaGradient]:
        """What replays these chunks, with new kinds of them recorded."""
        found: dict[int, Record] = {}
        for tasks in chunks:
            size = len(tasks.support.x)
            if size in found:
                continue
            kind = _kind(self.estimator, learner, meta, tasks)
            if kind not in self._records:
                with running(learner):
                    self._records[kind] = self._recorded(learner, meta, tasks)
            found[size] = self._records[kind]

        def replay(learner: Learner, meta: Params, tasks: Task) -> MetaGradient:
            return found[len(tasks.support.x)](meta, tasks)

        return replay

    def _recorded(self, learner: Learner, meta: Params, tasks: Task) -> Record:
        began = time.monotonic()
        eager = self.estimator(learner, meta, tasks)
        if _model(learner).random:
            raise ValueError(
                "the model draws random numbers (dropout?), and a record would repeat the same "
                'ones: use engine="eager"'
            )
        made = record(self.estimator, _model(learner), learner, meta, tasks, list(eager.grads))
        made.check(eager, meta, tasks)
        other = altered(tasks)
        again = self.estimator(learner, meta, other)
        made.check(again, meta, other)
        if made.hasten(self.compiled):
            # Other rounding lets ReLU units flip, and many steps amplify that: up to some per cent
            # are no fault. This finds a compiler's gross ones.
            made.check(again, meta, other, tolerance=0.5)
        log.info(
            "recorded %d tensor operations in %.1f s", made.operations, time.monotonic() - began
        )
        return made

    def refuse(self, learner: Learner) -> str | None:
        return self.estimator.refuse(learner) or _unrecordable(learner, self.estimator)

    def describe(self) -> str:
        return self.estimator.describe()

    def __getstate__(self) -> dict[str, object]:
        """Records are made anew in another process."""
        return self.__dict__ | {"_records": {}}


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep blocks of up to 32 MiB that are freed, for all threads, in this process.

    It hands them back to the system by default, and the next block of the same size then costs a
    page fault per 4 KiB: on a CPU up to a third of a step. Another C library is left as it is.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENAS, 1)):
            mallopt(option, value)


def check_choice(name: str, value: str, choices: object) -> None:
    if value not in get_args(choices):
        raise ValueError(f"unknown {name} {value!r}; use one of {', '.join(get_args(choices))}")


def _unrecordable(learner: Learner, estimator: Estimator) -> str | None:
    reason = None
    if not isinstance(learner, IterativeLearner):
        reason = f"a `{type(learner).__name__}` reads the labels to know the classes"
    elif learner.tolerance is not None:
        reason = "with a tolerance the number of steps depends on the task"
    elif learner.persistent:
        reason = "the solver's state outlives the task"
    elif learner.varies is not None:
        reason = learner.varies
    elif not estimator.recordable:
        reason = f"`{type(estimator).__name__}` draws random numbers or solves to a tolerance"
    return None if reason is None else f'{reason}, so it cannot be recorded. Use engine="eager"'


def _model(learner: Learner) -> ModelCall:
    return cast(ModelCall, learner.call)


def _kind(estimator: Estimator, learner: Learner, meta: Params, tasks: Task) -> tuple[object, ...]:
    return (
        estimator.phase,
        learner.phase,
        *((t.shape, t.dtype) for batch in tasks for t in batch),
        tasks.support.x.device,
        tuple((v.dtype, v.requires_grad) for v in meta.values()),
        _model(learner).modes,
        _model(learner).precision,
        torch.get_float32_matmul_precision(),
    )

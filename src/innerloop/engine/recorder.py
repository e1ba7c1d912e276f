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
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn

from ..call import ModelCall, differentiable_kernels
from ..core import streams
from ..core.contract import (
    Estimator,
    Learner,
    MetaGradientFunction,
    Objective,
    OuterWeights,
    Program,
    Refusal,
)
from ..core.types import MetaGradient, Params, Task, count, leaf, shapes
from .record import Kept, Record, altered, record

log = logging.getLogger("innerloop")

Engine = Literal["eager", "traced", "compiled"]
Precision = Literal["float32", "bfloat16"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENAS = -1, -3, -8
"""The numbers of glibc's malloc.h."""

MOST_RECORDS = 8
"""Kinds of chunks whose records are kept; of more, the one not used for longest is dropped."""

TURN = threading.RLock()
if hasattr(os, "register_at_fork"):  # a fork must not inherit a lock that another thread holds
    os.register_at_fork(
        before=TURN.acquire, after_in_parent=TURN.release, after_in_child=TURN.release
    )


@contextlib.contextmanager
def execution(
    calls: Sequence[ModelCall],
    own: Sequence[nn.Module] = (),
    *,
    training: bool = True,
    progress: float | None = None,
) -> Iterator[None]:
    """What calls need to run: the user's modes, one seed per call, differentiable kernels.

    `own` are the modules of learner and objective beside the models. Unless `training`, they and
    the models are in eval mode: no dropout in layers or gradients. Layers that change over a
    training are told its `progress`, if it is given.

    One at a time: a functional call sets weights in a module tree and kernels are chosen for the
    whole process, so threads take turns.
    """
    with TURN, torch.inference_mode(False):
        for call in calls:
            call.follow_modes(training)
            if progress is not None:
                call.follow_progress(progress)
        before = [module.training for module in own]
        seed = streams.common(int(torch.randint(2**62, ())))
        recurrent = any(not call.batchable for call in calls)
        try:
            for module in own:
                module.training = module.training and training
            with contextlib.ExitStack() as stack:
                for call in calls:
                    stack.enter_context(call.holding())
                stack.enter_context(seed)
                stack.enter_context(differentiable_kernels(recurrent=recurrent))
                yield
        finally:
            for module, was in zip(own, before, strict=True):
                module.training = was


class Recorder:
    """Meta-gradient functions, recorded for each kind of chunk; the results agree to rounding.

    A kind is the function, the shapes, types and device of the tasks, the models' train/eval flags,
    what is learned, autocast and precision. Python values (a learning rate, the number of steps,
    what a loss closes over) are recorded as they are at the first call. `compiled` passes the
    record through PyTorch's compiler, which needs a C++ compiler on a CPU and takes from ten
    seconds to minutes, once per kind.
    """

    def __init__(self, learner: Learner, objective: Objective, *, compiled: bool):
        self.learner, self.objective, self.compiled = learner, objective, compiled
        self._records: OrderedDict[tuple[Hashable, ...], Record] = OrderedDict()

    @property
    def calls(self) -> list[Any]:
        return [*self.learner.calls(), *self.objective.calls()]

    def prepared(
        self,
        function: MetaGradientFunction,
        meta: Params,
        chunks: Sequence[Task],
        weights: OuterWeights,
        own: Sequence[nn.Module],
    ) -> MetaGradientFunction:
        """What replays these chunks, with new kinds of them recorded.

        Raises ValueError, saying why, where the computation depends on values.
        """
        found: dict[Hashable, Record] = {}
        for tasks in chunks:
            shape = shapes(tasks)
            if shape in found:
                continue
            part = _own(weights, tasks)
            # The function itself: an identity alone could come back with another one.
            kind = (function, shape, *self._kind(meta, tasks, weights))
            if kind not in self._records:
                with execution(self.calls, own):
                    self._records[kind] = self._recorded(function, meta, tasks, part)
                while len(self._records) > MOST_RECORDS:
                    self._records.popitem(last=False)
            self._records.move_to_end(kind)
            found[shape] = self._records[kind]

        def replay(meta: Params, tasks: Task, weights: OuterWeights) -> MetaGradient:
            return found[shapes(tasks)](meta, tasks, weights)

        return replay

    def _recorded(
        self, function: MetaGradientFunction, meta: Params, tasks: Task, weights: OuterWeights
    ) -> Record:
        began = time.monotonic()
        eager = function(meta, tasks, weights)
        if any(call.random for call in self.calls):
            raise ValueError(
                "the model draws random numbers (dropout?), and a record would repeat the same "
                'ones: use engine="eager"'
            )
        kept = Kept(self.learner, self.objective, self.calls)
        made = record(function, kept, meta, tasks, weights, list(eager.grads))
        made.check(eager, meta, tasks, weights)
        other = altered(tasks)
        again = function(meta, other, weights)
        made.check(again, meta, other, weights)
        if made.hasten(self.compiled):
            # Other rounding lets ReLU units flip, and many steps amplify that: up to some per cent
            # are no fault. This finds a compiler's gross ones.
            made.check(again, meta, other, weights, tolerance=0.5)
        log.info(
            "recorded %d tensor operations in %.1f s", made.operations, time.monotonic() - began
        )
        return made

    def _kind(self, meta: Params, tasks: Task, weights: OuterWeights) -> tuple[Hashable, ...]:
        device = leaf(tasks.support.x).device
        program = self.learner.offer(Program)  # type: ignore[type-abstract]
        return (
            weights.steps is None,
            weights.tasks is None,
            device,
            tuple((v.dtype, v.requires_grad) for v in meta.values()),
            tuple((call.modes, call.precision) for call in self.calls),
            program.key() if isinstance(program, Program) else None,
            torch.get_float32_matmul_precision(),
            torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type),
        )

    def __getstate__(self) -> dict[str, object]:
        """Records are made anew in another process."""
        return self.__dict__ | {"_records": OrderedDict()}


def refuse_recording(learner: Learner, estimator: Estimator) -> str | None:
    """Why this pair cannot be recorded, and what to do; None if it can."""
    found = learner.offer(Program)  # type: ignore[type-abstract]
    reason = estimator.program()
    if isinstance(found, Refusal):
        reason = found
    return None if reason is None else f"{reason.reason}, so it cannot be recorded. {reason.fix}"


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


def _own(weights: OuterWeights, tasks: Task) -> OuterWeights:
    """Weights of as many tasks as there are, for a recording: their values do not matter."""
    if weights.tasks is None:
        return weights
    return weights._replace(tasks=weights.tasks[: count(tasks)])

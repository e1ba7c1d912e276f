"""Recorded meta-gradients: one chunk's whole computation as a flat list of tensor operations.

The first chunk of a kind runs eagerly; then the same Python is run once more under `make_fx`, which
writes down every tensor operation of the inner loop, the outer loss and the sweep. Later chunks
replay the list: no module calls, no autograd, no graph in memory, each value dropped after its last
use. It is pruned first: derivatives that nothing reads are not computed. The list can be handed to
`torch.compile` as one graph without breaks.
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
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from .core import checks, streams
from .core.contract import Estimator, IterativeLearner, Learner
from .core.types import Batch, MetaGradient, Params, Task
from .learn.model_call import ModelCall, differentiable_kernels

log = logging.getLogger("innerloop")

Engine = Literal["eager", "traced", "compiled"]

_aten = torch.ops.aten
_COPIES = (_aten.detach.default, _aten.alias.default)
"""Operations that give back their input: without autograd there is nothing to detach from."""
_MASKED = (_aten.convolution_backward.default, _aten.native_batch_norm_backward.default)
"""Operations whose last argument says which of their results are wanted."""


_ELEMENTWISE = (
    _aten.add.Tensor,
    _aten.sub.Tensor,
    _aten.mul.Tensor,
    _aten.neg.default,
    _aten.zeros_like.default,
)

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENAS = -1, -3, -8
"""The numbers of glibc's malloc.h."""

_TURN = threading.RLock()


@contextlib.contextmanager
def running(learner: Learner) -> Iterator[None]:
    """What a learner needs to run: the user's modes, one seed per call, differentiable kernels.

    One at a time: a functional call sets weights in a module tree and kernels are chosen for the
    whole process, so threads take turns.
    """
    call = _model(learner)
    with _TURN, torch.inference_mode(False):
        call.follow_modes()
        seed = streams.common(int(torch.randint(2**62, ())))
        with seed, differentiable_kernels(recurrent=not call.batchable):
            yield


class Recorder(Estimator):
    """`estimator`, recorded for each kind of chunk it meets; the results agree to rounding.

    A kind is the shapes, types and device of the tasks, the learner's train/eval flags and what is
    learned. Python values (a learning rate, the number of steps, what a loss closes over) are
    recorded as they are at the first call. `compiled` passes the record through `torch.compile`,
    which needs a C++ compiler on a CPU and takes from ten seconds to minutes, once per kind.

    Raises ValueError, saying why, where a computation depends on values: random layers, inner
    tolerances, mini-batched supports, solver states that outlive the task, iterative linear solves.
    """

    def __init__(self, estimator: Estimator, *, compiled: bool = False):
        _keep_freed_memory()
        self.needs = estimator.needs
        self.estimator = estimator
        self.compiled = compiled
        self._records: dict[tuple[object, ...], _Record] = {}

    def __call__(self, learner: Learner, meta: Params, tasks: Task) -> MetaGradient:
        return self._records[_kind(learner, meta, tasks)](learner, meta, tasks)

    def prepare(self, learner: Learner, meta: Params, chunks: list[Task]) -> None:
        """Record the kinds of chunks that are new."""
        for tasks in {len(chunk.support.x): chunk for chunk in chunks}.values():
            kind = _kind(learner, meta, tasks)
            if kind not in self._records:
                with running(learner):
                    self._records[kind] = self._recorded(learner, meta, tasks)

    def _recorded(self, learner: Learner, meta: Params, tasks: Task) -> _Record:
        began = time.monotonic()
        eager = self.estimator(learner, meta, tasks)
        if _model(learner).random:
            raise ValueError(
                "the model draws random numbers (dropout?), and a record would repeat the same "
                'ones: use engine="eager"'
            )
        record = _Record(self.estimator, learner, meta, tasks, self.compiled)
        record.compare(eager, learner, meta, tasks)
        log.info(
            "recorded %d tensor operations in %.1f s", record.operations, time.monotonic() - began
        )
        return record

    def refuse(self, learner: Learner) -> str | None:
        return self.estimator.refuse(learner) or _unrecordable(learner, self.estimator)

    def describe(self) -> str:
        return self.estimator.describe()

    def __getstate__(self) -> dict[str, object]:
        """Records are made anew in another process."""
        return self.__dict__ | {"_records": {}}


class _Record:
    def __init__(
        self, estimator: Estimator, learner: Learner, meta: Params, tasks: Task, compiled: bool
    ):
        self._names: list[str] = []
        self._stats: list[str] = []
        learned = {k: v.requires_grad for k, v in meta.items()}
        buffers = _buffers(learner)

        def run(meta: list[Tensor], buffers: list[Tensor], *data: Tensor) -> list[Tensor]:
            leaves = {
                k: v.detach().requires_grad_(learned[k]) for k, v in zip(learned, meta, strict=True)
            }
            with _given(learner, buffers):
                found = estimator(learner, leaves, _task(data))
            self._names, self._stats = list(found.grads), list(found.stats)
            return [found.loss, *found.grads.values(), *found.stats.values()]

        try:
            with checks.recording():
                graph = make_fx(run)([v.detach() for v in meta.values()], buffers, *_data(tasks))
        except RuntimeError as error:
            raise ValueError(
                f"this computation cannot be recorded, it depends on values: "
                f'{str(error).splitlines()[0]} Use engine="eager"'
            ) from error
        self.operations = _prune(graph)
        on_gpu = tasks.support.x.device.type == "cuda"
        self._run: Callable[..., list[Tensor]] = graph
        if compiled:
            mode = "reduce-overhead" if on_gpu else None
            self._run = torch.compile(graph, fullgraph=True, dynamic=False, mode=mode)
        elif on_gpu:
            values = [v.detach() for v in meta.values()]
            self._run = _Replayed(graph, values, buffers, *_data(tasks))

    def __call__(self, learner: Learner, meta: Params, tasks: Task) -> MetaGradient:
        with torch.no_grad():
            values = [v.detach() for v in meta.values()]
            loss, *rest = self._run(values, _buffers(learner), *_data(tasks))
        grads = dict(zip(self._names, rest, strict=False))
        return MetaGradient(loss, grads, dict(zip(self._stats, rest[len(grads) :], strict=True)))

    def compare(self, eager: MetaGradient, learner: Learner, meta: Params, tasks: Task) -> None:
        """Refuse a record that does not repeat what the eager run of the same chunk gave."""
        replayed = self(learner, meta, tasks)
        scale = max((float(g.norm()) for g in eager.grads.values()), default=0.0)
        apart = max(
            (float((g - replayed.grads[k]).norm()) for k, g in eager.grads.items()), default=0.0
        )
        allowed = 100 * torch.finfo(eager.loss.dtype).eps ** 0.75 * scale
        if not apart <= allowed and scale == scale:
            raise ValueError(
                f"the recorded meta-gradient is {apart / scale:.1e} (relative) from the eager one: "
                'the model computes something else on its second call. Use engine="eager"'
            )


class _Replayed:
    """A recorded list of operations as one CUDA graph: launched at once, nothing waits."""

    def __init__(self, run: Callable[..., list[Tensor]], *inputs: Tensor | list[Tensor]):
        flat, self._layout = pytree.tree_flatten(inputs)
        self._inputs = [t.clone() for t in flat]
        own = pytree.tree_unflatten(self._inputs, self._layout)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(aside):
            run(*own)  # libraries choose their algorithms now, outside of the capture
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self._graph):
            self._outputs = run(*own)

    def __call__(self, *inputs: Tensor | list[Tensor]) -> list[Tensor]:
        for own, given in zip(self._inputs, pytree.tree_leaves(inputs), strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return [t.clone() for t in self._outputs]


@functools.cache
def _keep_freed_memory() -> None:
    """Let glibc keep blocks of up to 32 MiB that are freed, for all threads, in this process.

    It hands them back to the system by default, and the next block of the same size then costs a
    page fault per 4 KiB: on a CPU up to a third of a step. Another C library is left as it is.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENAS, 1)):
            mallopt(option, value)


def check_engine(engine: str) -> None:
    if engine not in get_args(Engine):
        raise ValueError(f"unknown engine {engine!r}; use one of {', '.join(get_args(Engine))}")


def _unrecordable(learner: Learner, estimator: Estimator) -> str | None:
    reason = None
    if not isinstance(learner, IterativeLearner):
        reason = f"a `{type(learner).__name__}` reads the labels to know the classes"
    elif learner.tolerance is not None:
        reason = "with a tolerance the number of steps depends on the task"
    elif learner.persistent:
        reason = "the solver's state outlives the task"
    elif getattr(learner, "batch_size", None) is not None:
        reason = "each call draws other mini-batches"
    elif not estimator.recordable:
        reason = f"`{type(estimator).__name__}` draws random numbers or solves to a tolerance"
    return None if reason is None else f'{reason}, so it cannot be recorded. Use engine="eager"'


def _model(learner: Learner) -> ModelCall:
    return cast(ModelCall, learner.call)


def _kind(learner: Learner, meta: Params, tasks: Task) -> tuple[object, ...]:
    return (
        *((t.shape, t.dtype) for t in _data(tasks)),
        tasks.support.x.device,
        tuple(v.requires_grad for v in meta.values()),
        _model(learner).modes,
        torch.get_float32_matmul_precision(),
    )


def _buffers(learner: Learner) -> list[Tensor]:
    return list(_model(learner).buffers().values())


def _given(learner: Learner, buffers: list[Tensor]) -> contextlib.AbstractContextManager[None]:
    return _model(learner).given_buffers(buffers)


def _data(tasks: Task) -> tuple[Tensor, ...]:
    return tuple(t.contiguous() for batch in tasks for t in batch)


def _task(data: tuple[Tensor, ...]) -> Task:
    return Task(Batch(*data[:2]), Batch(*data[2:]))


def _prune(module: fx.GraphModule) -> int:
    """Drop what nothing reads; returns the number of operations left."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target in _COPIES:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    _lift(graph)
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if node.target in _MASKED:
            read = {user.args[1] for user in node.users}
            mask = [bool(wanted) and i in read for i, wanted in enumerate(node.args[-1])]
            node.args = (*node.args[:-1], mask)
    graph.lint()
    module.recompile()
    return len(graph.nodes)


def _lift(graph: fx.Graph) -> None:
    """Move the task axis of a chunk of one task out of elementwise operations, where it cancels.

    op(unsqueeze(a), unsqueeze(b)) becomes unsqueeze(op(a, b)), and squeeze(unsqueeze(a)) becomes a:
    an operation on a small tensor takes no longer than a change of its shape.
    """
    bare: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        tensors = [a for a in node.args if isinstance(a, fx.Node)]
        if (node.target == _aten.unsqueeze.default and node.args[1] == 0) or (
            node.target == _aten.expand.default and _shape(node) == (1, *_shape(node.args[0]))
        ):
            bare[node] = node.args[0]
        elif node.target == _aten.squeeze.dim and node.args[1] == 0 and node.args[0] in bare:
            node.replace_all_uses_with(bare[node.args[0]])
        elif node.target in _ELEMENTWISE and all(a in bare for a in tensors) and tensors:
            with graph.inserting_before(node):
                args = tuple(bare[a] if isinstance(a, fx.Node) else a for a in node.args)
                inner = graph.call_function(node.target, args, dict(node.kwargs))
                outer = graph.call_function(_aten.unsqueeze.default, (inner, 0))
            node.replace_all_uses_with(outer)
            bare[outer] = inner


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape) if "val" in node.meta else (-1,)

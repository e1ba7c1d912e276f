"""One recorded computation: a flat list of tensor operations, pruned, replayed or compiled."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from .core import checks
from .core.contract import Estimator, Learner
from .core.types import Batch, MetaGradient, Params, Task
from .learn.model_call import ModelCall

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


class Record:
    """What `estimator` does to one chunk of tasks, for all chunks of the same kind."""

    def __init__(
        self,
        estimator: Estimator,
        call: ModelCall,
        learner: Learner,
        meta: Params,
        tasks: Task,
    ):
        self._call = call
        self._names: list[str] = []
        self._stats: list[str] = []
        learned = {k: v.requires_grad for k, v in meta.items()}

        def run(meta: list[Tensor], buffers: list[Tensor], *data: Tensor) -> list[Tensor]:
            leaves = {
                k: v.detach().requires_grad_(learned[k]) for k, v in zip(learned, meta, strict=True)
            }
            with call.given_buffers(buffers):
                found = estimator(learner, leaves, Task(Batch(*data[:2]), Batch(*data[2:])))
            self._names, self._stats = list(found.grads), list(found.stats)
            return [found.loss, *found.grads.values(), *found.stats.values()]

        try:
            with checks.recording():
                graph = make_fx(run)(*self._inputs(meta, tasks))
        except RuntimeError as error:
            raise ValueError(
                f"this computation cannot be recorded, it depends on values: "
                f'{str(error).splitlines()[0]} Use engine="eager"'
            ) from error
        prune(graph)
        self.operations = len(graph.graph.nodes)
        self._run: Callable[..., list[Tensor]] = graph

    def __call__(self, meta: Params, tasks: Task) -> MetaGradient:
        with torch.no_grad():
            loss, *rest = self._run(*self._inputs(meta, tasks))
        grads = dict(zip(self._names, rest, strict=False))
        return MetaGradient(loss, grads, dict(zip(self._stats, rest[len(grads) :], strict=True)))

    def check(self, eager: MetaGradient, meta: Params, tasks: Task) -> None:
        """Refuse a record that does not repeat what the eager run of the same chunk gave."""
        replayed = self(meta, tasks)
        scale = max((float(g.norm()) for g in eager.grads.values()), default=0.0)
        apart = max(
            (float((g - replayed.grads[k]).norm()) for k, g in eager.grads.items()), default=0.0
        )
        loss = abs(float(replayed.loss - eager.loss))
        apart, scale = apart + loss, scale + abs(float(eager.loss))
        if apart > 100 * torch.finfo(eager.loss.dtype).eps ** 0.75 * scale:
            raise ValueError(
                f"the recorded meta-gradient is {apart:.1e} from the eager one, of size "
                f"{scale:.1e}: the model computes something else on its second call, or reads "
                'values in Python. Use engine="eager"'
            )

    def hasten(self, compiled: bool, meta: Params, tasks: Task) -> None:
        """Hand the list to the compiler, or on a GPU make it one launch."""
        on_gpu = tasks.support.x.device.type == "cuda"
        if compiled:
            # On a CPU the glue between kernels is C++ as well; on a GPU one CUDA graph.
            options: dict[str, Any] = (
                {"triton.cudagraphs": True} if on_gpu else {"cpp_wrapper": True}
            )
            self._run = torch.compile(self._run, fullgraph=True, dynamic=False, options=options)
            with _quiet("torch._inductor.ir"):  # it names operations that it calls as they are
                self(meta, tasks)
        elif on_gpu:
            self._run = _Launched(self._run, *self._inputs(meta, tasks))

    def _inputs(self, meta: Params, tasks: Task) -> tuple[list[Tensor] | Tensor, ...]:
        data = (t.contiguous() for batch in tasks for t in batch)
        return [v.detach() for v in meta.values()], list(self._call.buffers().values()), *data


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    log = logging.getLogger(logger)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def altered(tasks: Task) -> Task:
    """Tasks of the same kind with other values: what Python read from the first ones shows."""

    def other(batch: Batch) -> Batch:
        x, y = batch.x.flip(1), batch.y.clone()
        y[:, 0] = y[:, -1]
        return Batch(x * 0.5 if x.is_floating_point() else x, y)

    return Task(other(tasks.support), other(tasks.query))


class _Launched:
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


def prune(module: fx.GraphModule) -> None:
    """Drop what nothing reads, and the task axis of a chunk of one task."""
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

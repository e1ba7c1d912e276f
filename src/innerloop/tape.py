"""One function of tensors as a flat list of tensor operations, pruned, replayed or compiled."""

from __future__ import annotations

import contextlib
import itertools
import logging
import operator
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from .core import checks

_aten = torch.ops.aten
_COPIES = (_aten.detach.default, _aten.alias.default)
"""Operations that give back their input: without autograd there is nothing to detach from."""
_MASKED = (_aten.convolution_backward.default, _aten.native_batch_norm_backward.default)
"""Operations whose last argument says which of their results are wanted."""
_ZEROS = (_aten.zeros_like.default, _aten.zeros.default, _aten.new_zeros.default)
_FRESH = (
    _aten.convolution.default,
    _aten.convolution_backward.default,
    _aten.native_batch_norm.default,
    _aten.native_batch_norm_backward.default,
    _aten.max_pool2d_with_indices_backward.default,
    _aten.addcmul.default,
    _aten.add.Tensor,
    _aten.mul.Tensor,
)
"""Operations whose results have memory of their own."""
_SCALED = (_aten.add.Tensor, _aten.sub.Tensor, _aten.add_.Tensor, _aten.sub_.Tensor)
"""Operations with a factor for their second argument."""
_ELEMENTWISE = (
    _aten.add.Tensor,
    _aten.sub.Tensor,
    _aten.mul.Tensor,
    _aten.neg.default,
    _aten.zeros_like.default,
)


Inputs = tuple[list[Tensor] | Tensor, ...]


class Tape:
    """`function` of lists of tensors, with what it did to `inputs` written down.

    Raises ValueError where an operation depends on values.
    """

    def __init__(self, function: Callable[..., list[Tensor]], *inputs: list[Tensor] | Tensor):
        lengths = [len(i) if isinstance(i, list) else None for i in inputs]
        # Of an expanded tensor no other can take the place: its entries share memory.
        flat = [t.clone() if 0 in t.stride() else t for t in _flat(inputs)]

        def run(*tensors: Tensor) -> list[Tensor]:
            left = iter(tensors)
            return function(
                *(next(left) if n is None else list(itertools.islice(left, n)) for n in lengths)
            )

        try:
            with checks.recording():
                graph = make_fx(run)(*flat)
        except RuntimeError as error:
            raise ValueError(
                f"this computation cannot be recorded, it depends on values: "
                f'{str(error).splitlines()[0]} Use engine="eager"'
            ) from error
        prune(graph)
        self.operations = len(graph.graph.nodes)
        self._run: Callable[..., list[Tensor]] = graph
        self._kinds = [(t.shape, t.stride(), t.dtype, t.device) for t in flat]

    def __call__(self, *inputs: list[Tensor] | Tensor) -> list[Tensor]:
        # Operations were chosen for memory as it lay then, and do not look again.
        flat = [
            t if t.stride() == kind[1] else _empty(kind).copy_(t)
            for t, kind in zip(_flat(inputs), self._kinds, strict=True)
        ]
        with torch.no_grad():
            return list(self._run(*flat))

    def hasten(self, compiled: bool) -> bool:
        """Hand the list to the compiler, or on a GPU make it one launch; whether that was done."""
        flat = [_empty(kind).zero_() for kind in self._kinds]
        on_gpu = any(t.is_cuda for t in flat)
        if compiled:
            assert isinstance(self._run, fx.GraphModule)
            self._run = _compiled(self._run, flat, on_gpu)
        elif on_gpu:
            self._run = _Launched(self._run, *flat)
        return compiled or on_gpu


def _flat(inputs: Inputs) -> list[Tensor]:
    return [t for part in inputs for t in (part if isinstance(part, list) else [part])]


def _empty(kind: tuple[Any, ...]) -> Tensor:
    shape, strides, dtype, device = kind
    return torch.empty_strided(shape, strides, dtype=dtype, device=device)


def _compiled(graph: fx.GraphModule, flat: list[Tensor], on_gpu: bool) -> Callable[..., Any]:
    """The list as one compiled function: no guards, no graph breaks.

    On a CPU the glue between kernels is C++ as well; on a GPU it is one CUDA graph.
    """
    from torch._inductor.compile_fx import compile_fx  # takes seconds to import

    _spell_out_factors(graph)
    for node in graph.graph.nodes:  # the compiler finds out shapes by itself
        node.meta.clear()
    options = {"triton.cudagraphs": True} if on_gpu else {"cpp_wrapper": True}
    with torch.no_grad(), _quiet("torch._inductor.ir"):  # it names operations it calls as they are
        run = cast(Callable[..., Any], compile_fx(graph, flat, config_patches=options))
        run(*flat)
    # A CUDA graph writes its results to the same memory again at the next call.
    return (lambda *given: [t.clone() for t in run(*given)]) if on_gpu else run


def _spell_out_factors(module: fx.GraphModule) -> None:
    """a + alpha b as two operations: the compiler turns a + alpha (b c) into addmm and loses alpha.

    Seen in torch 2.13.
    """
    for node in list(module.graph.nodes):
        if node.target in _SCALED and "alpha" in node.kwargs:
            with module.graph.inserting_before(node):
                scaled = module.graph.call_function(
                    _aten.mul.Tensor, (node.args[1], node.kwargs["alpha"])
                )
            node.args, node.kwargs = (node.args[0], scaled), {}
    module.recompile()


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    log = logging.getLogger(logger)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


class _Launched:
    """A recorded list of operations as one CUDA graph: launched at once, nothing waits."""

    def __init__(self, run: Callable[..., list[Tensor]], *inputs: Tensor):
        self._inputs = own = [t.clone() for t in inputs]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(aside):
            run(*own)  # libraries choose their algorithms now, outside of the capture
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self._graph):
            self._outputs = run(*own)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        for own, given in zip(self._inputs, inputs, strict=True):
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
    _add_no_zeros(graph)
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if node.target in _MASKED:
            read = {user.args[1] for user in node.users}
            mask = [bool(wanted) and i in read for i, wanted in enumerate(node.args[-1])]
            node.args = (*node.args[:-1], mask)
    _reuse(graph)
    graph.lint()
    module.recompile()


def _reuse(graph: fx.Graph) -> None:
    """ReLU and sums write over an argument that nobody reads afterwards: less memory to touch."""
    for node in list(graph.nodes):
        if node.target not in (
            _aten.relu.default,
            _aten.threshold_backward.default,
            _aten.add.Tensor,
        ):
            continue
        first = node.args[0]
        if not isinstance(first, fx.Node) or len(first.users) > 1 or not _alike(first, node):
            continue
        made_by: Any = first.args[0] if first.target is operator.getitem else first
        if made_by.target not in _FRESH or first.meta["val"].stride() != node.meta["val"].stride():
            continue
        if node.target == _aten.threshold_backward.default:
            node.target = _aten.threshold_backward.grad_input
            node.kwargs = {"grad_input": first}
        else:
            node.target = _aten.relu_.default if len(node.args) == 1 else _aten.add_.Tensor


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


def _add_no_zeros(graph: fx.Graph) -> None:
    """a + 0 is a: autograd writes zeros for derivatives that vanish, such as a ReLU's second.

    Only where nothing writes into one of the three: both names may then be one.
    """
    written = _written(graph)
    for node in list(graph.nodes):
        if node.target != _aten.add.Tensor or node.kwargs or node in written:
            continue
        for kept, other in (node.args, node.args[::-1]):
            if not isinstance(kept, fx.Node) or not isinstance(other, fx.Node):
                continue
            if other.target not in _ZEROS or {_origin(kept), other} & written:
                continue
            if _alike(kept, node):
                node.replace_all_uses_with(kept)
                graph.erase_node(node)
                break


def _written(graph: fx.Graph) -> set[fx.Node]:
    """What is written into, by itself or through a view of it."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        schema = getattr(node.target, "_schema", None)
        for i, argument in enumerate(() if schema is None else schema.arguments):
            if argument.is_write:
                given = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
                fx.node.map_arg(given, lambda value: found.add(_origin(value)))
    return found


def _origin(node: fx.Node) -> fx.Node:
    """The operation that made the memory in which this value lies."""
    while node.args and isinstance(node.args[0], fx.Node):
        schema = getattr(node.target, "_schema", None)
        aliases = schema is not None and any(r.alias_info is not None for r in schema.returns)
        if not aliases and node.target is not operator.getitem:
            break
        node = node.args[0]
    return node


def _alike(a: fx.Node, b: fx.Node) -> bool:
    one, other = a.meta.get("val"), b.meta.get("val")
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return False
    return one.shape == other.shape and one.dtype == other.dtype


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape) if "val" in node.meta else (-1,)

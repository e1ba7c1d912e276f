"""One function of tensors as a flat list of tensor operations, pruned, replayed or compiled."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from ..core import checks
from ..core.types import Params
from .pruning import prune

_aten = torch.ops.aten
_SCALED = (_aten.add.Tensor, _aten.sub.Tensor, _aten.add_.Tensor, _aten.sub_.Tensor)
"""Operations with a factor for their second argument."""

Part = Tensor | list[Tensor] | Params
"""What a recorded function takes and gives, part by part."""


class Tape:
    """`function` of tensors, lists and dictionaries of them, with what it did to `inputs` written
    down. It returns such parts as well, and later calls give them under the same names.

    Raises ValueError where an operation depends on values.
    """

    def __init__(self, function: Callable[..., Iterable[Part]], *inputs: Part):
        taken = [_layout(part) for part in inputs]
        # Of an expanded tensor no other can take the place: its entries share memory.
        flat = [t.clone() if 0 in t.stride() else t for t in _flat(inputs)]

        def run(*tensors: Tensor) -> list[Tensor]:
            found = list(function(*_parts(taken, tensors)))
            self._given = [_layout(part) for part in found]
            return _flat(found)

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
        self._run: Callable[..., Iterable[Tensor]] = graph
        self._kinds = [(t.shape, t.stride(), t.dtype, t.device) for t in flat]

    def __call__(self, *inputs: Part) -> list[Any]:
        # Operations were chosen for memory as it lay then, and do not look again.
        flat = [
            t if t.stride() == kind[1] else _empty(kind).copy_(t)
            for t, kind in zip(_flat(inputs), self._kinds, strict=True)
        ]
        with torch.no_grad():
            return _parts(self._given, self._run(*flat))

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


def _layout(part: Part) -> int | list[str] | None:
    """None for a tensor, the length of a list, the keys of a dictionary."""
    if isinstance(part, Tensor):
        return None
    return list(part) if isinstance(part, dict) else len(part)


def _flat(parts: Iterable[Part]) -> list[Tensor]:
    flat: list[Tensor] = []
    for part in parts:
        if isinstance(part, Tensor):
            flat.append(part)
        else:
            flat += part.values() if isinstance(part, dict) else part
    return flat


def _parts(layouts: list[int | list[str] | None], flat: Iterable[Tensor]) -> list[Any]:
    """What `_flat` made flat."""
    left = iter(flat)
    found: list[Part] = []
    for layout in layouts:
        if layout is None:
            found.append(next(left))
        elif isinstance(layout, int):
            found.append(list(itertools.islice(left, layout)))
        else:
            found.append({k: next(left) for k in layout})
    return found


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

    def __init__(self, run: Callable[..., Iterable[Tensor]], *inputs: Tensor):
        self._inputs = own = [t.clone() for t in inputs]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(aside):
            run(*own)  # libraries choose their algorithms now, outside of the capture
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self._graph):
            self._outputs = list(run(*own))

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return [t.clone() for t in self._outputs]

"""A recorded list of tensor operations made shorter: nothing unread, no zeros, less memory."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

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
_ELEMENTWISE = (
    _aten.add.Tensor,
    _aten.sub.Tensor,
    _aten.mul.Tensor,
    _aten.neg.default,
    _aten.zeros_like.default,
)


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

"""Arithmetic on flat dictionaries of tensors. Pairs by key, never by position."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .types import Params


def leaves(tree: Params) -> Params:
    """The same values as fresh leaves that can be differentiated; integers stay as they are."""
    return {
        k: v.detach().requires_grad_() if v.is_floating_point() else v.detach()
        for k, v in tree.items()
    }


def detach(tree: Params) -> Params:
    return {k: v.detach() for k, v in tree.items()}


def zeros_like(tree: Params) -> Params:
    return {k: torch.zeros_like(v) for k, v in tree.items()}


def add(a: Params, b: Params) -> Params:
    """a + b, in the order of `a`; a key that `b` lacks counts as zero."""
    return {k: v + b[k] if k in b else v for k, v in a.items()}


def merge(a: Params, b: Params) -> Params:
    """a + b over the keys of either; a missing key counts as zero."""
    return {**a, **{k: a[k] + v if k in a else v for k, v in b.items()}}


def expand(value: Tensor, tasks: int) -> Tensor:
    """One view of `value` per task: shape (T, *value.shape), no copy."""
    return value.expand(tasks, *value.shape)


def rows(values: Tensor, like: Tensor) -> Tensor:
    """Reshape a per-task vector (T,) so that it broadcasts against `like` of shape (T, ...)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def dot(a: Params, b: Params) -> Tensor:
    """The inner product of each task's row: (T,)."""
    return torch.stack([(v * b[k]).reshape(len(v), -1).sum(1) for k, v in a.items()]).sum(0)


def norm(a: Params) -> Tensor:
    """The Euclidean norm of each task's row, over all leaves together: (T,)."""
    return dot(a, a).sqrt()


def gradient(losses: Tensor, inputs: Params, *, create_graph: bool = False) -> Params:
    """The gradient of the sum of `losses`; only inputs that they depend on appear in it."""
    return pull([losses], inputs, [torch.ones_like(losses)], create_graph=create_graph)


def pull(
    outputs: Iterable[Tensor],
    inputs: Params,
    cotangents: Iterable[Tensor | None],
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> Params:
    """The vector-Jacobian product of `outputs` with respect to `inputs`.

    Only inputs that the outputs depend on appear in the result, so "does not depend" stays visible
    and costs nothing. Outputs without a graph, and absent cotangents, are left out.
    """
    pairs = [
        (o, c)
        for o, c in zip(outputs, cotangents, strict=True)
        if c is not None and o.requires_grad
    ]
    wanted = {k: v for k, v in inputs.items() if v.requires_grad}
    if not pairs or not wanted:
        return {}
    found = torch.autograd.grad(
        [o for o, _ in pairs],
        list(wanted.values()),
        [c for _, c in pairs],
        retain_graph=retain_graph or create_graph,
        create_graph=create_graph,
        allow_unused=True,
    )
    return {k: g for k, g in zip(wanted, found, strict=True) if g is not None}

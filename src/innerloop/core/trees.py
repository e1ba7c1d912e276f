"""Arithmetic on flat dictionaries of tensors. Pairs by key, never by position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from .types import Params

K = TypeVar("K")


def under(prefix: str, tree: Params) -> Params:
    """The entries whose name starts with `prefix`, without it."""
    n = len(prefix)
    return {k[n:]: v for k, v in tree.items() if k.startswith(prefix)}


def join(**parts: Params) -> dict[tuple[str, str], Tensor]:
    """Several trees as one, keyed (part, name): a weight is called the same in phi and in meta."""
    return {(name, k): v for name, tree in parts.items() for k, v in tree.items()}


def part(name: str, joined: Mapping[tuple[str, str], Tensor]) -> Params:
    """What `join` made of one of its parts."""
    return {k: v for (of, k), v in joined.items() if of == name}


def slot(name: str) -> str:
    """`name` as an entry of a ParameterDict: no dot, and never one of its own attributes."""
    return name.replace(".", "/") if "." in name else name + "/"


def filled(tree: Params, like: Params) -> Params:
    """The tree in the order of `like`, zeros where it has no entry."""
    return {k: tree[k] if k in tree else torch.zeros_like(v) for k, v in like.items()}


def differentiable(value: Tensor) -> bool:
    """Whether a derivative with respect to it exists: real or complex, not an integer."""
    return value.is_floating_point() or value.is_complex()


def leaves(tree: Params) -> Params:
    """The same values as fresh leaves that can be differentiated; integers stay as they are."""
    return {
        k: v.detach().requires_grad_() if differentiable(v) else v.detach() for k, v in tree.items()
    }


def detach(tree: Params) -> Params:
    return {k: v.detach() for k, v in tree.items()}


def zeros_like(tree: Params) -> Params:
    return {k: torch.zeros_like(v) for k, v in tree.items()}


def add(a: Params, b: Params) -> Params:
    """a + b, in the order of `a`; a key that `b` lacks counts as zero."""
    return {k: v + b[k] if k in b else v for k, v in a.items()}


def merge(a: dict[K, Tensor], b: dict[K, Tensor]) -> dict[K, Tensor]:
    """a + b over the keys of either; a missing key counts as zero."""
    return {**a, **{k: a[k] + v if k in a else v for k, v in b.items()}}


def expand(value: Tensor, tasks: int) -> Tensor:
    """One view of `value` per task: shape (T, *value.shape), no copy."""
    return value.expand(tasks, *value.shape)


def rows(values: Tensor, like: Tensor) -> Tensor:
    """Reshape a per-task vector (T,) so that it broadcasts against `like` of shape (T, ...)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def dot(a: Params, b: Params) -> Tensor:
    """The real inner product of each task's row: (T,)."""
    return torch.stack([_product(v, b[k]).reshape(len(v), -1).sum(1) for k, v in a.items()]).sum(0)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b; of complex numbers re(a) re(b) + im(a) im(b): pairs of reals, as autograd has it."""
    return (a.conj() * b).real if a.is_complex() else a * b


def norm(a: Params) -> Tensor:
    """The Euclidean norm of each task's row, over all leaves together: (T,)."""
    return dot(a, a).sqrt()


def gradient(
    losses: Tensor, inputs: dict[K, Tensor], *, create_graph: bool = False
) -> dict[K, Tensor]:
    """The gradient of the sum of `losses`; only inputs that they depend on appear in it."""
    return pull([losses], inputs, [torch.ones_like(losses)], create_graph=create_graph)


def pull(
    outputs: Iterable[Tensor],
    inputs: dict[K, Tensor],
    cotangents: Iterable[Tensor | None],
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> dict[K, Tensor]:
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

"""The data between the pieces. Every tensor of a task batch has a leading task axis T.

Inputs, labels and outputs are tensors or trees of tensors (dictionaries, tuples, lists); each leaf
is (T, n, ...). The helpers below are the one place that knows how to walk such a tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

Params = dict[str, Tensor]
"""A flat dictionary of tensors in one canonical order: the order of `named_parameters()`."""

Tree = Any
"""A tensor, or a dictionary, tuple or list of trees."""

T = TypeVar("T")


class Batch(NamedTuple):
    """Labelled examples of T tasks: `x` and `y` of shape (T, n, ...), or trees of such tensors.

    `weight` (T, n) says how much each example counts in losses and metrics, which are then means
    weighted by it; None counts them alike.
    """

    x: Tree
    y: Tree
    weight: Tensor | None = None


class Task(NamedTuple):
    """T stacked tasks: adapt on `support`, be right on `query`."""

    support: Batch
    query: Batch


@dataclass(frozen=True)
class MetaGradient:
    """What an estimator returns.

    `loss` is the mean outer loss over tasks (scalar), `grads` the gradient of it in the canonical
    order of the meta-parameters, `stats` what was seen on the way, one value per task: (T,).
    `memory` is the solver state that outlives the tasks, for solvers that keep one.
    """

    loss: Tensor
    grads: Params
    stats: dict[str, Tensor]
    memory: Params = field(default_factory=dict)


def leaf(tree: Tree) -> Tensor:
    """The first tensor of a tree: shapes of axes that all leaves share are read from it."""
    return tree if isinstance(tree, Tensor) else leaves(tree)[0]


def leaves(tree: Tree) -> list[Tensor]:
    """All tensors of a tree, in its order. By hand: a flat walk is what every step can afford."""
    if isinstance(tree, Tensor):
        return [tree]
    if tree is None:
        return []
    if isinstance(tree, tuple | list):
        return [v for part in tree for v in ((part,) if isinstance(part, Tensor) else leaves(part))]
    return [v for v in tree_leaves(tree) if isinstance(v, Tensor)]


def mapped(function: Callable[[Tensor], Any], tree: T) -> T:
    """The same tree with `function` applied to each tensor; anything else stays as it is."""
    changed: Any
    if isinstance(tree, Tensor):
        changed = function(tree)
    elif tree is None:
        changed = None
    elif type(tree) in (Batch, Task):
        changed = type(tree)(*(mapped(function, part) for part in tree))  # type: ignore[attr-defined]
    else:
        changed = tree_map(lambda v: function(v) if isinstance(v, Tensor) else v, tree)
    return changed


def count(tree: Tree) -> int:
    """The number T of tasks that a tree of (T, ...) tensors holds."""
    return len(leaf(tree))


def examples(batch: Batch) -> int:
    """The number n of examples that each task of a batch holds."""
    return leaf(batch.x).shape[1]


def rows(tree: T, chosen: slice | Tensor) -> T:
    """The chosen tasks of a tree of (T, ...) tensors: views for a slice, copies for an index."""
    return mapped(lambda v: v[chosen], tree)


def one_of(tree: T) -> T:
    """A tree of one task, leaves (1, n, ...), without its task axis."""
    return mapped(lambda v: v.squeeze(0), tree)


def columns(tree: T, chosen: slice | Tensor) -> T:
    """The chosen examples, the same ones of every task, of a tree of (T, n, ...) tensors."""
    return mapped(lambda v: v[:, chosen], tree)


def to(tree: T, where: torch.device | torch.dtype | str) -> T:
    """The tree on a device, or its floating-point tensors in a type."""
    if isinstance(where, torch.dtype):
        return mapped(lambda v: v.to(where) if v.is_floating_point() else v, tree)
    return mapped(lambda v: v.to(where), tree)


def stack(trees: Sequence[T]) -> T:
    """Trees of single tasks, leaves (n, ...), as one tree with a task axis: (T, n, ...)."""
    return _together(trees, torch.stack)


def concat(trees: Sequence[T], axis: int = 0) -> T:
    """Trees joined along an axis: 0 joins tasks, 1 joins examples."""
    if len(trees) == 1:
        return trees[0]
    return _together(trees, lambda parts: torch.cat(parts, axis))


def shapes(tree: Tree) -> tuple[Any, ...]:
    """What must agree for trees to be stacked: their structure, shapes and types."""
    return _structure(tree), tuple((v.shape, v.dtype) for v in leaves(tree))


def _structure(tree: Tree) -> Any:
    """None for a tensor; for a tuple those of its parts; else a text that tells trees apart."""
    if isinstance(tree, Tensor):
        return None
    if isinstance(tree, tuple):
        return tuple(_structure(part) for part in tree)
    return str(tree_flatten(tree)[1])


def describe(tree: Tree) -> str:
    """A tree in words, for messages: keys and shapes."""
    if isinstance(tree, Tensor):
        return str(tuple(tree.shape))
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{k}: {describe(v)}" for k, v in tree.items()) + "}"
    if isinstance(tree, tuple | list):
        return "(" + ", ".join(map(describe, tree)) + ")"
    return type(tree).__name__


def _together(trees: Sequence[T], join: Callable[[list[Tensor]], Tensor]) -> T:
    if isinstance(trees[0], Tensor):
        return join(list(trees))  # type: ignore[arg-type, return-value]
    flat, spec = tree_flatten(trees[0])
    others = [tree_flatten(tree) for tree in trees[1:]]
    # Entries in another order would otherwise be joined with the wrong ones, place by place.
    if any(other != spec for _, other in others):
        raise ValueError(
            f"expected trees with the same entries, got {', '.join(map(describe, trees))}"
        )
    joined = [
        join(list(parts)) if isinstance(parts[0], Tensor) else parts[0]
        for parts in zip(flat, *(values for values, _ in others), strict=True)
    ]
    result: T = tree_unflatten(joined, spec)
    return result

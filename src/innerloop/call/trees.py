"""Inputs and outputs of a model: a tensor, or a dictionary, tuple or list of such parts.

Every leaf has the task axis in front and the examples behind it: (T, n, ...).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..core.types import Tree, describe, leaves


def check_inputs(x: Tree) -> None:
    """Refuse inputs that hold anything but tensors, or tensors of unequal axes in front.

    Raises ValueError with what came.
    """
    found = [x] if isinstance(x, Tensor) else tree_leaves(x)
    if not found or not all(isinstance(leaf, Tensor) for leaf in found):
        raise ValueError(
            f"expected x as a tensor, or a dict, tuple or list of tensors, got {describe(x)}; "
            "leave out entries that are None, and convert arrays with torch.as_tensor"
        )
    if len({tuple(leaf.shape[:2]) for leaf in found}) > 1:
        raise ValueError(
            "every tensor in x needs the same axes in front, tasks and examples (T, n, ...); got "
            f"{describe(x)}"
        )


def arguments(x: Tree) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How a model is called with `x`: `model(x)`, `model(*x)` or `model(**x)`."""
    if isinstance(x, Tensor):
        return (x,), {}
    return ((), x) if isinstance(x, dict) else (tuple(x), {})


def outputs(found: Any) -> Tree:
    """What a model returned, as a tree of tensors.

    Dictionary-like output objects, data classes and objects with `logits` become dictionaries of
    their entries that are tensors (or tuples, lists, dictionaries of tensors); others, such as
    caches and None, are left out.

    Raises ValueError where no tensor is left.
    """
    if isinstance(found, Tensor):
        return found
    tree = _plain(found)
    if tree is None or not leaves(tree):
        raise ValueError(
            "the model must return a tensor, a dict or tuple of tensors, or an output object with "
            f"`.logits`; it gave {type(found).__name__}; wrap it in a module whose forward returns "
            "the outputs only"
        )
    return tree


def _plain(found: Any) -> Tree | None:
    """`found` without what is no tensor; None where nothing is left."""
    if isinstance(found, Tensor):
        return found
    if isinstance(found, tuple | list):
        parts = [_plain(part) for part in found]
        if not found or any(part is None for part in parts):
            return None  # the places of a tuple mean something: all of it or nothing
        if isinstance(found, tuple) and hasattr(found, "_fields"):
            return dict(zip(found._fields, parts, strict=True))
        return parts if isinstance(found, list) else tuple(parts)
    entries: dict[str, Any] = {}
    if isinstance(found, Mapping):
        entries = dict(found)
    elif dataclasses.is_dataclass(found):
        entries = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    elif isinstance(getattr(found, "logits", None), Tensor):
        entries = {"logits": found.logits}
    kept = {k: part for k, v in entries.items() if (part := _plain(v)) is not None}
    return kept or None

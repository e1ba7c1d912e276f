"""Which example belongs to which class."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import one_hot

from .types import Tree


def membership(y: Tree) -> Tensor:
    """(T, n, C) with a one where an example belongs to a class, for labels y (T, n) from 0 to C-1.

    Raises ValueError unless every class up to the largest label has an example in every task.
    """
    if not isinstance(y, Tensor):
        raise ValueError(
            f"expected class labels of shape (T, n) as a tensor, got {type(y).__name__}"
        )
    if y.is_floating_point() or y.dim() != 2 or int(y.min()) < 0:
        raise ValueError(
            f"expected class labels 0, 1, 2, ... of shape (T, n), got {y.dtype} of shape "
            f"{tuple(y.shape)}" + ("" if y.is_floating_point() else f", from {int(y.min())} up")
        )
    classes = int(y.max()) + 1
    member = one_hot(y.long(), classes)
    if not member.any(1).all():
        raise ValueError(
            f"a class among 0..{classes - 1} has no support example in some task; label the "
            "classes of each task 0, 1, 2, ... without gaps"
        )
    return member

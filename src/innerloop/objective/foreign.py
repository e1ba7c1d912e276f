"""Functions of one task that a user gives, for stacked tasks: losses and regularisers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from ..call import randomness
from ..core import streams
from ..core.trees import differentiable
from ..core.types import Tree, count, leaf, leaves, mapped

log = logging.getLogger("innerloop")


class Foreign:
    """`function(*trees)` of one task, a scalar, for trees of stacked tasks: (T,).

    All tasks run together by `vmap`, or one after another where the function cannot be mapped,
    which the log says once. With `stacked` the function takes all tasks at once by itself. Random
    numbers are the same each time and for every task, as those of models: a gradient that is
    evaluated again is the gradient of the same function.

    Raises ValueError for a function that computes with an outside tensor that wants a gradient,
    which nobody would hand to it. It is called once more for that, at its first call.
    """

    def __init__(self, function: Callable[..., Tensor], name: str, *, stacked: bool = False):
        self.function, self.name, self.stacked = function, name, stacked
        self._draws: bool | None = None
        self._in_turn = False

    def __call__(self, *given: Tree, shared: tuple[Tree, ...] | None = None) -> Tensor:
        """`shared`: for each argument the axis of its tasks, as `in_dims` of `vmap`."""
        device = leaf(given).device
        if self._draws is None:
            self._draws = self._looked(given, shared, device)
        return self._run(given, shared, device)

    def _run(
        self, given: tuple[Tree, ...], axes: tuple[Tree, ...] | None, device: torch.device
    ) -> Tensor:
        if self.stacked:
            with self._replayed(device):
                return self.function(*given)
        tasks = count(given) if axes is None else _tasks(given, axes)
        if tasks > 1 and not self._in_turn:
            try:
                with self._replayed(device):
                    return vmap(self.function, in_dims=axes or 0, randomness="same")(*given)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                # If a task alone fails as well, what it raises is the plainer word.
                found = self._one_by_one(given, axes, tasks, device)
                self._in_turn = True
                log.warning(
                    "%s cannot be computed for several tasks at once, so it runs for one after "
                    "another: %s",
                    self.name,
                    (str(error).strip().splitlines() or [type(error).__name__])[0],
                )
                return found
        return self._one_by_one(given, axes, tasks, device)

    def _one_by_one(
        self,
        given: tuple[Tree, ...],
        axes: tuple[Tree, ...] | None,
        tasks: int,
        device: torch.device,
    ) -> Tensor:
        found = []
        for i in range(tasks):
            with self._replayed(device):
                found.append(self.function(*_row(given, axes, i)))
        return found[0].unsqueeze(0) if tasks == 1 else torch.stack(found)

    def _replayed(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        if not self._draws:
            return contextlib.nullcontext()
        return streams.replay("function", device=device)

    def _looked(
        self, given: tuple[Tree, ...], axes: tuple[Tree, ...] | None, device: torch.device
    ) -> bool:
        """Whether the function draws random numbers."""
        own = mapped(lambda v: v.detach().requires_grad_() if differentiable(v) else v, given)
        with torch.enable_grad(), streams.replay("look", device=device):
            before = randomness.state(device)
            found = self._run(own, axes, device)
            draws = not torch.equal(before, randomness.state(device))
        refuse_outside(self.name, found, own)
        return draws


def refuse_outside(name: str, value: Any, given: Tree) -> None:
    """Raise ValueError where `value`, computed from `given`, depends on other parameters that
    want a gradient."""
    known = {id(v) for v in leaves(given)}
    # Other leaves may be the function's own, made to take derivatives in its inputs.
    outside = [v for v in _sources(value) if isinstance(v, nn.Parameter) and id(v) not in known]
    if outside:
        raise ValueError(
            f"{name} computes with a tensor of shape {tuple(outside[0].shape)} that requires a "
            "gradient but belongs neither to the model nor to the examples, so it would get none: "
            "give it to an inner term (`Computed(function, hyper)`), make it a parameter of the "
            "model, or use `.detach()`"
        )


def _tasks(given: tuple[Tree, ...], axes: tuple[Tree, ...]) -> int:
    (tree,), (axis,) = given, axes
    return next((len(v) for k, v in tree.items() if axis[k] == 0), 1)


def _row(given: tuple[Tree, ...], axes: tuple[Tree, ...] | None, i: int) -> tuple[Tree, ...]:
    if axes is None:
        return mapped(lambda v: v[i], given)
    (tree,), (axis,) = given, axes
    return ({k: v[i] if axis[k] == 0 else v for k, v in tree.items()},)


def _sources(value: Any) -> list[Tensor]:
    """The leaves that want a gradient of this value."""
    open_ = [value.grad_fn] if isinstance(value, Tensor) and value.grad_fn is not None else []
    found, seen = [], set(open_)
    while open_:
        node = open_.pop()
        leaf_of = getattr(node, "variable", None)
        if isinstance(leaf_of, Tensor):
            found.append(leaf_of)
        for earlier, _ in node.next_functions:
            if earlier is not None and earlier not in seen:
                seen.add(earlier)
                open_.append(earlier)
    if isinstance(value, Tensor) and value.grad_fn is None and value.requires_grad:
        found.append(value)
    return found

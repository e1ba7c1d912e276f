"""A module called with other tensors in the places of its parameters and buffers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from ..core.types import Params

Slot = tuple[dict[str, Any], str, str]
"""A module's dictionary, the key in it, and the first name of the tensor there."""

Entry = tuple[dict[str, Any], str, Any]
"""A dictionary, a key in it, and the value to stand there."""

_ABSENT = object()


def places(model: nn.Module) -> dict[str, str]:
    """Every place of the module tree that holds a tensor, and the first name of that tensor.

    A layer that hangs at two paths is one place; a tensor shared by two layers has two places and
    one name, the one under which `named_parameters` and `named_buffers` list it.
    """
    names: dict[int, str] = {}
    found = {}
    for prefix, module in model.named_modules():
        for attribute, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                place = f"{prefix}.{attribute}" if prefix else attribute
                found[place] = names.setdefault(id(tensor), place)
    return found


def call(
    model: nn.Module,
    where: dict[str, str],
    tensors: Params,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
) -> Any:
    """`model(*args, **kwargs)` with `tensors`, by first name, in the places `where`."""
    with placed(slots(model, where), tensors):
        return model(*args, **(kwargs or {}))


def slots(model: nn.Module, where: dict[str, str]) -> list[Slot]:
    """The places as dictionary entries, for `placed`."""
    found = []
    for place, name in where.items():
        path, _, attribute = place.rpartition(".")
        module = model.get_submodule(path)
        home = module._parameters if attribute in module._parameters else module._buffers
        found.append((home, attribute, name))
    return found


@contextlib.contextmanager
def placed(slots: list[Slot], tensors: Params) -> Iterator[None]:
    """Within the block the slots hold `tensors`, where given.

    `functional_call` does the same, but it goes through every module's `setattr` on each call, and
    with a layer that hangs at two paths it puts back the wrong tensor.
    """
    before = put((home, key, tensors[name]) for home, key, name in slots if name in tensors)
    try:
        yield
    finally:
        put_back(before)


def put(entries: Iterable[Entry]) -> list[Entry]:
    """Write the entries; returns what `put_back` needs to undo it."""
    before = []
    for home, key, value in entries:
        before.append((home, key, home.get(key, _ABSENT)))
        home[key] = value
    return before


def put_back(before: list[Entry]) -> None:
    for home, key, value in reversed(before):
        if value is _ABSENT:
            home.pop(key, None)
        else:
            home[key] = value

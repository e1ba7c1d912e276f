"""A module called with other tensors in the places of its parameters and buffers."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.func import functional_call

from ..core.types import Params


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
    """`model(*args, **kwargs)` with `tensors`, by first name, in the places `where`.

    The tying of `functional_call` itself is not used: it sets a layer that hangs at two paths
    twice, and then puts back the wrong tensor.
    """
    state = {place: tensors[name] for place, name in where.items() if name in tensors}
    return functional_call(model, state, args, kwargs, tie_weights=False)

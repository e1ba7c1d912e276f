"""A model's module tree copied, its tensors shared."""

from __future__ import annotations

import copy

from torch import nn


def sharing_copy(model: nn.Module) -> nn.Module:
    """The same layers in a tree of their own: what is put into the copy does not show in `model`,
    and training one trains the other.
    """
    return copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})


def first_layer(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> str:
    """The name of the first registered layer of one of these kinds."""
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            return name
    wanted = " or ".join(kind.__name__ for kind in kinds)
    raise ValueError(f"{type(model).__name__} has no {wanted} layer")


def layer_of(model: nn.Module, name: str) -> nn.Module:
    """The layer called `name`; the error names those that exist."""
    layers = dict(model.named_modules())
    if name not in layers:
        known = ", ".join(filter(None, layers)) or "(none)"
        raise ValueError(f"the model has no layer {name!r}; its layers are {known}")
    return layers[name]


def replaced(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """`model` with `layer` in the place called `name`; "" is the model itself."""
    if not name:
        return layer
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
    return model


def headless(model: nn.Module, head: str = "head") -> nn.Module:
    """`model` without its layer `head`: the outputs are what that layer was given.

    The result shares its weights with `model`.
    """
    layer_of(model, head)
    return replaced(sharing_copy(model), head, nn.Identity())

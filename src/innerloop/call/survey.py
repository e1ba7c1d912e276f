"""What a module tree is made of, looked up once and again only where the tree has changed."""

from __future__ import annotations

from collections.abc import Iterator
from operator import is_
from typing import Any

import torch
from torch import nn

from ..core.types import Params
from . import policy as norms
from . import slots as functional
from .slots import Entry, Slot
from .swap import closed_form, corrected

_VALUES = (bool, int, float, str, type(None))


class Survey:
    """The places of a model's tensors, and what to write into it for the time of a call.

    `always` are the entries of every call (policy, second derivatives that torch has wrong),
    `quiet` those that put all other layers in eval mode, `closed` the closed forms of one task
    alone. `modes` and `quiet_modes` tell two states of the model apart that may compute different
    things: train/eval flags, layers and hooks, plain attributes.
    """

    def __init__(self, model: nn.Module, policy: norms.Policy):
        named = dict(model.named_modules())
        self.modules = list(named.values())
        self.rows = norms.Rows()
        governed = norms.tracking(model)
        self.normalises = bool(governed)
        self.always: list[Entry] = norms.entries(governed, policy)
        self.supports = policy == "support" and any(
            isinstance(layer, norms._BatchNorm) for layer in governed.values()
        )
        hidden = {(id(home), key) for home, key, value in self.always if value is None}
        self.slots = [
            slot
            for slot in functional.slots(model, functional.places(model))
            if (id(slot[0]), slot[1]) not in hidden
        ]
        theirs = {id(module): name for name, module in governed.items()}
        self.closed: list[Entry] = []
        for module in self.modules:
            if self.supports and isinstance(module, norms._BatchNorm):
                stand_in: Any = norms.SupportNorm(module, theirs[id(module)], self.rows)
                self.always.append((module.__dict__, "forward", stand_in))
            elif (right := corrected(module)) is not None:
                self.always.append((module.__dict__, "forward", right))
            elif (form := closed_form(module)) is not None:
                self.closed.append((module.__dict__, "forward", form))
        free = [m for m in self.modules if id(m) not in theirs]
        self.quiet: list[Entry] = [(m.__dict__, "training", False) for m in free if m.training]
        self.inert = all(_inert(m) for m in self.modules)
        self.generators = [
            v for m in self.modules for v in m.__dict__.values() if isinstance(v, torch.Generator)
        ]
        flags = tuple(m.training for m in free)
        values, made_of = tuple(_values(self.modules)), tuple(_identities(self.modules))
        self.modes: tuple[object, ...] = (flags, made_of, values)
        self.quiet_modes: tuple[object, ...] = ((False,) * len(flags), made_of, values)
        self.trainable = [(p, p.requires_grad) for p in model.parameters()]
        first: dict[str, Slot] = {}
        for slot in self.slots:
            if not isinstance(slot[0][slot[1]], nn.Parameter):
                first.setdefault(slot[2], slot)
        self._buffers = list(first.values())
        self._model = model
        self._seen = _fingerprint(model)

    def stands(self) -> bool:
        """Whether the model is as it was; compares identities only."""
        now = _fingerprint(self._model)
        return len(now) == len(self._seen) and all(map(is_, now, self._seen))

    def buffers(self) -> Params:
        """The buffers that a forward pass sees, by name, as they are now."""
        return {name: home[key] for home, key, name in self._buffers}


class Built:
    """The parameters and the layers that hold them, as they were when a method was built."""

    def __init__(self, model: nn.Module):
        self._layers = {k: m for k, m in model.named_modules() if m._parameters}
        self._trainable = {k: p.requires_grad for k, p in model.named_parameters()}

    def refuse_changes(self, model: nn.Module) -> None:
        """Raise ValueError, naming them, where parameters came, went, froze or thawed, or a layer
        with parameters was replaced: solvers and optimisers go on with the old ones."""
        name, again = type(model).__name__, "build the method again, and its optimiser"
        now = dict(model.named_parameters())
        gone = [k for k in self._trainable if k not in now]
        new = [k for k in now if k not in self._trainable]
        if gone or new:
            told = f"{', '.join(gone) or 'none'} gone, {', '.join(new) or 'none'} new"
            raise ValueError(
                f"the parameters of {name} changed after the method was built (pruning, a new "
                f"layer?): {told}; {again}"
            )
        layers = dict(model.named_modules())
        for place, layer in self._layers.items():
            if layers.get(place) is not layer:
                raise ValueError(
                    f"layer `{place}` of {name} was replaced after the method was built, and the "
                    f"method would go on with the parameters of the old one; {again}"
                )
        turned = [k for k, p in now.items() if p.requires_grad != self._trainable[k]]
        if turned:
            raise ValueError(
                f"requires_grad of {', '.join(turned)} changed after the method was built; {again}"
            )


def _fingerprint(model: nn.Module) -> list[Any]:
    """Every object that the tree holds, but the values of its buffers: `.to` changes those."""
    seen: list[Any] = []
    # A layer that hangs at two paths is looked at twice; what closes a circle, once.
    open_, known = [model], {id(model)}
    for module in open_:
        seen += module.__dict__.values()
        seen += module._parameters
        seen += module._parameters.values()
        seen += module._buffers
        for child in module._modules.values():
            seen.append(child)
            if child is not None and id(child) not in known:
                known.add(id(child))
                open_.append(child)
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            if hooks:
                seen += hooks.values()
    return seen


def _inert(module: nn.Module) -> bool:
    """Whether running this layer writes nothing into any module's attributes."""
    own = type(module).__module__.startswith("torch.nn.modules.")
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    return own and not hooked and not isinstance(module, nn.RNNBase)


def _identities(modules: list[nn.Module]) -> Iterator[int]:
    """Layers, their hooks, and functions put in the place of their `forward`."""
    for module in modules:
        yield id(module)
        yield id(module.__dict__.get("forward"))
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            yield from map(id, hooks.values())


def _values(modules: list[nn.Module]) -> Iterator[object]:
    """Plain attributes, such as a temperature or a probability of dropout."""
    for module in modules:
        for key, value in module.__dict__.items():
            if key != "training" and isinstance(value, _VALUES):
                yield key, value

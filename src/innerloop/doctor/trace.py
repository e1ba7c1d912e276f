"""One forward pass, watched: which layer got what, returned what, and drew random numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


@dataclass
class Call:
    """The first call of one module during the pass."""

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None
    random: bool = False
    fused_attention: bool = False
    infinite: bool = False
    narrow: bool = False

    def finish(self, output: Any, widest: int) -> None:
        """Note what came out, and whether it is finite and as precise as what went in."""
        self.output = output
        floats = [
            leaf
            for leaf in tree_flatten(output)[0]
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
        ]
        self.infinite = any(not torch.isfinite(leaf).all() for leaf in floats)
        self.narrow = any(leaf.itemsize < widest for leaf in floats)


@dataclass
class Trace:
    """The calls of a pass by qualified name, outermost first, and the model's output.

    If the pass raised, `error` is what and `culprit` the innermost module that was running.
    """

    calls: dict[str, Call] = field(default_factory=dict)
    output: Any = None
    error: Exception | None = None
    culprit: Call | None = None

    def inside(self, name: str) -> list[Call]:
        """The nearest called modules below `name`."""
        prefix = f"{name}." if name else ""
        below = [c for k, c in self.calls.items() if k != name and k.startswith(prefix)]
        return [
            c
            for c in below
            if not any(o is not c and c.name.startswith(f"{o.name}.") for o in below)
        ]

    def innermost(self, what: str) -> list[Call]:
        """The calls for which the flag `what` is set, without those that only contain one."""
        flagged = [c for c in self.calls.values() if getattr(c, what)]
        return [
            c
            for c in flagged
            if not any(
                o is not c and o.name.startswith(f"{c.name}." if c.name else "") for o in flagged
            )
        ]


class _FusedAttention(TorchDispatchMode):
    """Notes the calls under which an attention kernel without second derivative runs."""

    def __init__(self, stack: list[Call]) -> None:
        super().__init__()
        self.stack = stack

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if "attention" in name and ("flash" in name or "efficient" in name or "cudnn" in name):
            for call in self.stack:
                call.fused_attention = True
        return func(*args, **(kwargs or {}))


def layer_label(name: str, module: nn.Module) -> str:
    """How a layer is called in messages: its qualified name and its type."""
    kind = type(module).__name__
    return f"{name} ({kind})" if name else f"{kind}.forward itself"


def random_state(device: torch.device) -> Tensor:
    """The state of the global generator that `device` draws from."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()


def trace(model: nn.Module, x: Tensor) -> Trace:
    """Run `model(x)` with gradients on and return what every called module saw and did."""
    result = Trace()
    stack: list[Call] = []
    states: list[Tensor] = []
    widest = max((p.itemsize for p in model.parameters() if p.is_floating_point()), default=1)
    names = {module: name for name, module in reversed(list(model.named_modules()))}

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        stack.append(Call(names[module], module, args, kwargs))
        result.calls.setdefault(names[module], stack[-1])
        states.append(random_state(x.device))

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        call = stack.pop()
        call.finish(output, widest)
        call.random = not torch.equal(states.pop(), random_state(x.device))

    handles = []
    for module in names:
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        with torch.enable_grad(), _FusedAttention(stack):
            result.output = model(x)
    except Exception as error:
        result.error, result.culprit = error, stack[-1] if stack else None
    finally:
        for handle in handles:
            handle.remove()
    return result

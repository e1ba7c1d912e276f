"""A first, careful call of a model, on one task: what must be known before any number is given.

Care is taken by what the model does, not by what its layers are called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..core.types import Params, Tree, leaves
from .backward import dress_nodes, nodes
from .dress import Dress

PADDING = "an embedding's padding row keeps its gradient in all tasks but the first"
AGAIN = "its code runs again in the backward pass (activation checkpointing?)"

_aten = torch.ops.aten
_REENTRANT = (
    "the model uses reentrant activation checkpointing, which has no gradient for "
    "`torch.autograd.grad`; use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
)


@dataclass(frozen=True)
class Findings:
    """What a model does in a forward pass and in the backward pass behind it."""

    draws: bool = False
    foreign: bool = False
    """Numbers from elsewhere than torch's global generator."""
    again: bool = False
    """Code of the model reads its weights in the backward pass."""
    differentiates: bool = False
    """The forward pass takes derivatives itself."""
    unbatchable: str | None = None
    writes: tuple[str, ...] = ()
    """Names of the buffers that the forward pass writes to."""


class Watch(TorchDispatchMode):
    """Sees every operation of a forward pass.

    `own` are the user's own parameters, by identity: a call places others, so none of them should
    be met.
    """

    def __init__(self, own: dict[int, str]):
        super().__init__()
        self._own = own
        self.around: str | None = None
        self.padded = False
        self.fused_norm = False
        self.renormed = False
        self.differentiates = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _aten.embedding.default:
            self.padded |= len(args) > 2 and args[2] >= 0
        elif func is _aten._embedding_bag.default:
            self.padded |= len(args) > 8 and args[8] >= 0
        elif func is _aten._weight_norm_interface.default:
            self.fused_norm = True
        elif func is _aten.embedding_renorm_.default:
            self.renormed = True
        if torch._C._current_graph_task_id() != -1:
            self.differentiates = True
        for part in args:
            for leaf in part if isinstance(part, list | tuple) else (part,):
                if id(leaf) in self._own:
                    self.around = self._own[id(leaf)]
        return func(*args, **(kwargs or {}))

    def refuse(self, model: str) -> None:
        """Raise ValueError where a number would be wrong in silence."""
        if self.around is not None:
            raise ValueError(
                f"{model} reads its parameter `{self.around}` from elsewhere than its place in the "
                "module: a closure, a list or a default argument holds the tensor itself, so "
                f"adapted weights would not reach it; read it as the attribute `{self.around}` of "
                "the module each time"
            )
        if self.fused_norm:
            raise ValueError(
                f"{model} calls torch's fused weight normalisation, whose second derivative is "
                "wrong; use torch.nn.utils.parametrizations.weight_norm, or v * (g / |v|) composed"
            )
        if self.renormed:
            raise ValueError(
                f"{model} has an embedding with max_norm, which writes to its weights in the "
                "forward pass; leave max_norm out and normalise the rows that come out"
            )


Run = Callable[[], Tree]


def outputs_alike(model: str, first: Tree, second: Tree) -> None:
    """Raise ValueError unless a second call with the same weights and streams gives the same."""
    for a, b in zip(leaves(first), leaves(second), strict=True):
        close = a.shape == b.shape
        if close and a.numel() and (a.is_floating_point() or a.is_complex()):
            scale = float(a.detach().abs().max().nan_to_num(posinf=1.0))
            close = torch.allclose(a, b, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)
        if not close:
            raise ValueError(
                f"{model} gives something else when it is called a second time with the same "
                "weights and inputs, so no derivative of it can be trusted; let it draw from "
                "torch's global generator or a torch.Generator held as an attribute, and keep no "
                "state outside of its buffers and attributes"
            )


def runs_again(model: str, run: Run, dress: Dress, weights: Params, outputs: list[Tensor]) -> bool:
    """Whether code of the model reads its weights in the backward pass.

    The gradient is taken twice: with the weights in place, and with NaN in their places. Where the
    two differ, once more with NaN in the places between the nodes of the graph, which put the
    weights on themselves; second derivatives as well.

    Raises ValueError where that is not enough, and for reentrant checkpointing. The same where the
    outputs have a graph that reaches no weight: zero gradients would come out.
    """
    wanted = {k: v for k, v in weights.items() if v.requires_grad}
    reached = [v for v in outputs if v.requires_grad]
    if not wanted or not reached:
        return False  # said where the loss is known
    spoilt = Dress([(h, k, _nan(v)) for h, k, v in dress.entries if isinstance(v, Tensor)], [], [])
    if any(node.name() == "CheckpointFunctionBackward" for node in nodes(reached, [])):
        raise ValueError(_REENTRANT)
    with dress:
        right = _gradients(reached, wanted, twice=False)
    if right is None:
        return False  # no derivative at all: whoever takes it says so
    if all(g is None for g in right):
        raise ValueError(
            f"the outputs of {model} depend on none of its parameters; has its forward been taken "
            "from another module?"
        )
    with spoilt:
        if _same(right, _gradients(reached, wanted, twice=False)):
            return False
    with dress:
        right = _gradients(reached, wanted, twice=True)
    held = [v for v in leaves(run()) if v.requires_grad]
    dress_nodes(held, list(weights.values()), dress)
    with spoilt:
        found = _gradients(held, wanted, twice=True)
    if not _same(right, found):
        raise ValueError(
            f"code of {model} reads its weights in the backward pass in a way that cannot be "
            "followed (a hook of a tensor that calls layers?), and would find other weights than "
            "the adapted ones; compute it in the forward pass"
        )
    return True


def _nan(v: Tensor) -> Tensor:
    return torch.full_like(v, float("nan")) if v.is_floating_point() or v.is_complex() else v


def _gradients(outputs: list[Tensor], wanted: Params, *, twice: bool) -> list[Tensor | None] | None:
    """Of the summed squares of the outputs, and with `twice` of these gradients again."""
    inputs = list(wanted.values())
    try:
        total = _squares(outputs)
        found = torch.autograd.grad(
            total, inputs, allow_unused=True, create_graph=twice, retain_graph=True
        )
        held = [g for g in found if g is not None and g.requires_grad]
        if not twice or not held:
            return list(found)
        again = _squares(held)
        return [*found, *torch.autograd.grad(again, inputs, allow_unused=True)]
    except Exception:  # whatever code of the model raises on NaN
        return None


def _squares(values: list[Tensor]) -> Tensor:
    real = [torch.view_as_real(v) if v.is_complex() else v for v in values]
    return torch.stack([v.square().sum().double() for v in real]).sum()


def _same(right: list[Tensor | None] | None, other: list[Tensor | None] | None) -> bool:
    if right is None or other is None or len(right) != len(other):
        return right is other
    return all(
        a is b if a is None or b is None else torch.allclose(a, b, rtol=1e-4, equal_nan=True)
        for a, b in zip(right, other, strict=True)
    )

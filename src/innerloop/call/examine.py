"""The try-out before the first call in each state of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..core.types import Params, Tree, leaf, leaves
from . import randomness
from .probe import AGAIN, PADDING, Findings, Watch, outputs_alike, runs_again

if TYPE_CHECKING:
    from .model import ModelCall


def examine(call: ModelCall, model: nn.Module, x: Tree, *, thorough: bool) -> Findings:
    """What the model does with the inputs x (n, ...) of one task, at its own weights.

    Watched are random draws, operations that need care, writing to buffers. `thorough` also runs
    it a second time, and takes gradients to see what code runs in the backward pass; at the cost of
    about six forward passes.

    Raises ValueError where numbers would be wrong in silence: the model reads parameters around
    their places, writes to parameters, gives something else at a second call, or reads weights in
    the backward pass where nothing helps.
    """
    name, device = type(model).__name__, leaf(x).device
    weights = {
        k: p.detach().clone().requires_grad_(p.requires_grad) for k, p in model.named_parameters()
    }
    cast = call.in_precision(weights)
    generators = call.survey.generators
    watch = Watch({id(p): k for k, p in model.named_parameters()})
    attributes = _tensors(call.survey.modules)

    def run() -> tuple[Tree, Params]:
        buffers = call.own_buffers()
        with randomness.replay("probe", device, generators, foreign=True):
            return call.run(cast | buffers, x), buffers

    with torch.enable_grad():
        buffers = call.own_buffers()
        versions = {k: v._version for k, v in buffers.items()}
        with randomness.replay("probe", device, generators, foreign=True):
            before = randomness.state(device), randomness.foreign_state(generators)
            with watch:
                outputs = call.run(cast | buffers, x)
            after = randomness.state(device), randomness.foreign_state(generators)
        watch.refuse(name)
        _refuse_writing(name, weights, attributes)
        again = False
        if thorough:
            outputs_alike(name, outputs, run()[0])
            dress = call.dress(cast | buffers)
            found = leaves(outputs)
            again = runs_again(name, lambda: run()[0], dress, weights, found)
    foreign = before[1] != after[1]
    return Findings(
        draws=foreign or not torch.equal(before[0], after[0]),
        foreign=foreign,
        again=again,
        differentiates=watch.differentiates,
        unbatchable=AGAIN if again else PADDING if watch.padded else None,
        writes=tuple(k for k, v in buffers.items() if v._version != versions[k]),
    )


def _tensors(modules: list[nn.Module]) -> list[tuple[str, Tensor, int]]:
    """Tensors that are plain attributes, and how often they were written to by now."""
    return [
        (f"{type(module).__name__}.{key}", value, value._version)
        for module in modules
        for key, value in module.__dict__.items()
        if isinstance(value, Tensor) and not value.is_inference()
    ]


def _refuse_writing(name: str, weights: Params, attributes: list[tuple[str, Tensor, int]]) -> None:
    for k, v in weights.items():
        if v._version > 0:
            raise ValueError(
                f"the forward pass of {name} writes to its parameter `{k}`; compute with a changed "
                "copy of it instead"
            )
    for place, value, version in attributes:
        if value._version != version:
            raise ValueError(
                f"the forward pass of {name} writes into the tensor {place}, which is no buffer, "
                "so every call would start from another one; register it with register_buffer"
            )

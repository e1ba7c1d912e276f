"""Weights in place while derivatives are taken, for models whose code runs again by then.

Activation checkpointing, reversible blocks and own functions that call layers in their backward
pass read the module's weights when autograd gets there, long after the call is over. Of the nodes
that a call adds to autograd's graph each puts the call's weights on before it runs, and takes them
off afterwards; so one backward pass may go through many calls with other weights each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

from .dress import Dress

_LEAF = "torch::autograd::AccumulateGrad"


def dress_nodes(outputs: list[Tensor], inputs: list[Tensor], dress: Dress) -> None:
    """Make every node between `inputs` and `outputs` run with the dress on."""

    def on(gradients: Any) -> None:
        dress.put_on()

    def off(*gradients: Any) -> None:
        dress.take_off()

    for node in nodes(outputs, inputs):
        node.register_prehook(on)
        node.register_hook(off)


def nodes(outputs: list[Tensor], inputs: list[Tensor]) -> Iterator[Node]:
    """The nodes of autograd's graph between `inputs` and `outputs`, without the leaves."""
    known = {v.grad_fn for v in inputs if v.grad_fn is not None}
    open_ = [v.grad_fn for v in outputs if v.grad_fn is not None]
    while open_:
        node = open_.pop()
        if node in known or node.name() == _LEAF:
            continue
        known.add(node)
        yield node
        open_ += [earlier for earlier, _ in node.next_functions if earlier is not None]

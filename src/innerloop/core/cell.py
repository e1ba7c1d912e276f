"""The LSTM cell, as a function of its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .types import Params


def cell_weights(inputs: int, hidden: int, bound: float) -> nn.ParameterDict:
    """The weights of a cell from `inputs` to `hidden` entries, drawn from U(-bound, bound)."""
    shapes = {"input": (4 * hidden, inputs), "state": (4 * hidden, hidden), "bias": (4 * hidden,)}
    return nn.ParameterDict(
        {k: nn.Parameter(torch.empty(s).uniform_(-bound, bound)) for k, s in shapes.items()}
    )


def cell_step(weights: Params, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """h' = sigma(o) tanh(c'), c' = sigma(f) c + sigma(i) tanh(g), gates = U x + V h + b.

    x is (..., inputs), h and c are (..., hidden). The gates are stacked as in `torch.nn.LSTMCell`;
    its two biases are one here.
    """
    gates = x @ weights["input"].mT + h @ weights["state"].mT + weights["bias"]
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c

"""A small transformer for sequences and sets."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .network import Network


class Embed(nn.Module):
    """Tokens or feature vectors, lifted to `width`, with a learned position where order counts.

    int64 (n, length) with a vocabulary of `tokens`, or floats (n, length, inputs), to
    (n, length, width).
    """

    def __init__(self, tokens: int | None, inputs: int | None, width: int, length: int | None):
        super().__init__()
        self.lift: nn.Module
        if tokens is not None:
            self.lift = nn.Embedding(tokens, width)
            # The default, N(0, 1), drowns the positions and every layer's output.
            nn.init.normal_(self.lift.weight, std=0.02)
        else:
            assert inputs is not None
            self.lift = nn.Linear(inputs, width)
        self.place: nn.Parameter | None = None
        if length is not None:
            self.place = nn.Parameter(nn.init.normal_(torch.empty(length, width), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        lifted = self.lift(x)
        if self.place is None:
            return lifted
        n = lifted.shape[1]
        if n > len(self.place):
            raise ValueError(
                f"the sequence has {n} elements and the transformer places for {len(self.place)}; "
                f"build it with length={n}, or length=None for a set"
            )
        return lifted + self.place[:n]


class Mean(nn.Module):
    """The mean over the elements: (n, length, width) to (n, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class EachElement(nn.Linear):
    """A linear layer on every element: (n, length, width) to (n, outputs, length)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).transpose(1, 2)


def transformer(
    outputs: int | None,
    *,
    tokens: int | None = None,
    inputs: int | None = None,
    length: int | None = None,
    width: int = 64,
    heads: int = 4,
    layers: int = 2,
    hidden: int | None = None,
    drop: float = 0.0,
    answer: Literal["sequence", "element"] = "sequence",
) -> Network:
    """A transformer encoder on sequences or sets, of one class each or one class per element.

    x is int64 (n, length) with `tokens`, the size of the vocabulary, or floats (n, length, inputs)
    with `inputs`; give one of the two. With `length`, the longest sequence, elements have learned
    positions; without it the input is a set, and the answer does not depend on its order.

    `answer="sequence"` averages the elements, outputs (n, outputs); "element" gives
    (n, outputs, length) for labels (n, length), as cross-entropy wants them. `outputs=None` builds
    no head. Layers normalise first, activate by GELU between `width` and `hidden` (4 x width), and
    drop at rate `drop`. LayerNorm only: no normalisation policy is needed.

    Source: Vaswani et al. 2017, section 3; normalisation first as in Xiong et al. 2020; sets as in
    Lee et al. 2019 (Set Transformer), section 3.1, without inducing points.
    """
    if (tokens is None) == (inputs is None):
        raise ValueError(
            "give either tokens (a vocabulary, for integer x) or inputs (the width of each element "
            f"of x), got tokens={tokens} and inputs={inputs}"
        )
    sizes = [tokens, inputs, length, width, heads, layers, hidden, outputs]
    if min(s for s in sizes if s is not None) < 1:
        raise ValueError(
            "tokens, inputs, length, width, heads, layers, hidden and outputs must be at least 1, "
            f"got {', '.join(map(str, sizes))}"
        )
    if width % heads:
        raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
    if not 0 <= drop < 1:
        raise ValueError(f"drop is a probability, 0 <= drop < 1, got {drop}")
    if answer not in ("sequence", "element"):
        raise ValueError(f"answer must be 'sequence' or 'element', got {answer!r}")
    blocks = [
        nn.TransformerEncoderLayer(
            width,
            heads,
            hidden or 4 * width,
            dropout=drop,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        for _ in range(layers)
    ]
    parts = [Embed(tokens, inputs, width, length), *blocks, nn.LayerNorm(width)]
    linear = nn.Linear if answer == "sequence" else EachElement
    if answer == "sequence":
        parts.append(Mean())
    head = None if outputs is None else linear(width, outputs)
    return Network(nn.Sequential(*parts), head, features=width)

"""Batched changes to images on their way into a task; every draw comes from outside."""

from __future__ import annotations

import torch
from torch import Tensor


def turned(images: Tensor, turns: Tensor) -> Tensor:
    """Image i of (B, C, S, S) turned by `turns[i]` times 90 degrees; int64 (B,), on the CPU."""
    out = images.clone()
    for r in (1, 2, 3):
        rows = (turns == r).nonzero().squeeze(1).to(images.device)
        if len(rows):
            out.index_copy_(0, rows, torch.rot90(images.index_select(0, rows), r, (-2, -1)))
    return out


def flip_shift(images: Tensor, generator: torch.Generator, reach: int | None = None) -> Tensor:
    """Each of (B, C, H, W) mirrored left-right with chance 1/2 and moved by up to `reach` pixels.

    What a move uncovers repeats the border. `reach` defaults to an eighth of the shorter side.
    """
    b, c, h, w = images.shape
    reach = min(h, w) // 8 if reach is None else reach
    moves = torch.randint(-reach, reach + 1, (2, b, 1), generator=generator)
    mirror = torch.randint(0, 2, (b, 1), generator=generator).bool()
    row = (torch.arange(h) + moves[0]).clamp_(0, h - 1).to(images.device)
    column = (torch.arange(w) + moves[1]).clamp_(0, w - 1)
    column = torch.where(mirror, w - 1 - column, column).to(images.device)
    pixel = (row[:, :, None] * w + column[:, None, :]).reshape(b, 1, h * w)
    return images.reshape(b, c, h * w).gather(2, pixel.expand(b, c, h * w)).reshape(images.shape)

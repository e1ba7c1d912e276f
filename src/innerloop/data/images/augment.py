"""Batched changes to images on their way into a task; every draw comes from outside."""

from __future__ import annotations

import torch
from torch import Tensor

from ..transfer import to_device

_BLOCK = 128


def rotated(images: Tensor, turns: Tensor) -> Tensor:
    """Image i of (B, C, S, S) turned by `turns[i]` times 90 degrees; int64 (B,), on the CPU."""
    out = images.clone()
    rows = to_device([(turns == r).nonzero().squeeze(1) for r in (1, 2, 3)], images.device)
    for r, chosen in enumerate(rows, 1):
        if len(chosen):
            out.index_copy_(0, chosen, torch.rot90(images.index_select(0, chosen), r, (-2, -1)))
    return out


def flip_shift(images: Tensor, generator: torch.Generator, reach: int | None = None) -> Tensor:
    """Each of (B, C, H, W) mirrored left-right with chance 1/2 and moved by up to `reach` pixels.

    What a move uncovers repeats the border. `reach` defaults to an eighth of the shorter side.
    """
    b, c, h, w = images.shape
    reach = min(h, w) // 8 if reach is None else reach
    moves = torch.randint(-reach, reach + 1, (2, b, 1), generator=generator, device="cpu")
    mirror = torch.randint(0, 2, (b, 1), generator=generator, device="cpu").bool()
    row = (torch.arange(h, device="cpu") + moves[0]).clamp_(0, h - 1).mul_(w)
    column = (torch.arange(w, device="cpu") + moves[1]).clamp_(0, w - 1)
    column = torch.where(mirror, w - 1 - column, column)
    row, column = to_device([row, column], images.device)
    out = torch.empty((b, c, h * w), dtype=images.dtype, device=images.device)
    flat = images.reshape(b, c, h * w)
    # The index takes 8 bytes for each byte of an image: on a CPU, only as much as the cache holds.
    for i in range(0, b, block := _BLOCK if images.device.type == "cpu" else b):
        part = slice(i, i + block)
        pixel = (row[part, :, None] + column[part, None, :]).reshape(-1, 1, h * w)
        torch.gather(flat[part], 2, pixel.expand(-1, c, -1), out=out[part])
    return out.view(images.shape)

"""Small tensors on their way from the CPU, where tasks are drawn, to where the images are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """CPU tensors of one dtype on `device`, in one copy that nobody waits for.

    A copy from ordinary memory stops the CPU until the accelerator has taken it; one from pinned
    memory does not, and PyTorch keeps that memory until the copy is over.
    """
    flat = torch.cat([t.reshape(-1) for t in tensors])
    cuda = device.type == "cuda"
    there = (flat.pin_memory() if cuda else flat).to(device, non_blocking=cuda)
    pieces = there.split([t.numel() for t in tensors])
    return [piece.view(t.shape) for piece, t in zip(pieces, tensors, strict=True)]

"""The convolutional network of the closed-form learners."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .network import Network
from .norm import Norm, norm_or_nothing

SLOPE = 0.1


class LastTwo(nn.Module):
    """The maps of the third and of the fourth block, side by side as one vector."""

    def __init__(self, first: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.first, self.last = first, last
        self.pool = nn.MaxPool2d(2, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        third = self.first(x)
        return torch.cat([self.pool(third).flatten(1), self.last(third).flatten(1)], 1)


def r2d2_net(
    outputs: int | None,
    *,
    channels: int = 3,
    size: int = 84,
    widths: Sequence[int] = (96, 192, 384, 512),
    drop: float = 0.1,
    last_activation: bool = True,
    norm: Norm | None = "batch",
    track_running_stats: bool = False,
) -> Network:
    """The network of R2-D2 and LR-D2 on images (n, channels, size, size).

    Four blocks of 3x3 convolution, normalisation, 2x2 max-pool and LeakyReLU(0.1); the fourth pools
    with stride 1. The features are the third block's maps, pooled with stride 1, beside the
    fourth's: 72576 of 84 pixels, 8064 of 32, 3584 of 28. `drop` is dropout after blocks 3 and 4
    (0.1 on miniImageNet, 0.4 on CIFAR-FS). `widths=(64, 64, 64, 64)` is the small variant.

    `last_activation=False` ends the fourth block at its pool. Lee et al. 2019 report in their code
    that they reached the published accuracy only so.

    Source: Bertinetto et al. 2019, section 4.2 and code.
    """
    widths = tuple(widths)
    if len(widths) != 4:
        raise ValueError(f"the network has four blocks: expected four widths, got {widths}")
    if min(channels, *widths) < 1 or (outputs is not None and outputs < 1):
        raise ValueError(
            "channels, widths and outputs must be at least 1, got "
            f"{channels}, {widths} and {outputs}"
        )
    side = size // 8 - 1
    if side < 1:
        raise ValueError(
            f"the pools leave nothing of images of {size} x {size} pixels; they need size >= 16"
        )
    if not 0 <= drop < 1:
        raise ValueError(f"drop is a probability, 0 <= drop < 1, got {drop}")
    blocks = []
    for place, (before, after) in enumerate(zip((channels, *widths), widths, strict=False)):
        layers: list[nn.Module] = [
            nn.Conv2d(before, after, 3, padding=1),
            norm_or_nothing(norm, after, track_running_stats),
            nn.MaxPool2d(2, stride=2 if place < 3 else 1),
        ]
        if place < 3 or last_activation:
            layers.append(nn.LeakyReLU(SLOPE))
        if place >= 2 and drop:
            layers.append(nn.Dropout(drop))
        blocks.append(nn.Sequential(*layers))
    count = (widths[2] + widths[3]) * side * side
    body = LastTwo(nn.Sequential(*blocks[:3]), blocks[3])
    head = None if outputs is None else nn.Linear(count, outputs)
    return Network(body, head, features=count)

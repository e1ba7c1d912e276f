"""Wide residual networks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .conv import GlobalMean
from .network import Network
from .norm import Norm, norm_or_nothing
from .resnet import initialise


class WideBlock(nn.Module):
    """Normalise, activate, convolve, twice, beside the input: the pre-activated residual block.

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        drop: float,
        *,
        norm: Norm | None,
        track_running_stats: bool,
    ) -> None:
        super().__init__()
        bias = norm is None
        self.norm1 = norm_or_nothing(norm, inputs, track_running_stats)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=bias)
        self.norm2 = norm_or_nothing(norm, width, track_running_stats)
        self.drop = nn.Dropout(drop) if drop else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != width:
            self.shortcut = nn.Conv2d(inputs, width, 1, stride=stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        y = F.relu(self.norm2(self.conv1(active)))
        y = self.conv2(self.drop(y))
        return y + (x if self.shortcut is None else self.shortcut(active))


def wide_resnet(
    outputs: int | None,
    *,
    channels: int = 3,
    depth: int = 28,
    width: int = 10,
    drop: float = 0.0,
    norm: Norm | None = "batch",
    track_running_stats: bool = False,
) -> Network:
    """WRN-`depth`-`width` on images (n, channels, h, w): WRN-28-10 unless told otherwise.

    A convolution of 16 channels, three groups of (depth - 4) / 6 blocks with 16, 32 and 64 times
    `width` channels, the last two of which begin with stride 2, and the mean over the last map: 640
    features, 36,479,194 weights with ten outputs. `drop` is dropout between the two convolutions of
    a block. `outputs=None` builds no head. Convolutions have no bias; weights N(0, 2 / fan-out).

    Source: Zagoruyko, Komodakis 2016, table 1 and section 3. Rusu et al. 2019 (LEO) brought
    WRN-28-10 to miniImageNet.
    """
    count, rest = divmod(depth - 4, 6)
    if rest or count < 1:
        raise ValueError(f"depth must be 10, 16, 22, 28, ... (6 k + 4), got {depth}")
    if min(channels, width) < 1 or (outputs is not None and outputs < 1):
        raise ValueError(
            f"channels, width and outputs must be at least 1, got {channels}, {width} and {outputs}"
        )
    if not 0 <= drop < 1:
        raise ValueError(f"drop is a probability, 0 <= drop < 1, got {drop}")
    layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, padding=1, bias=norm is None)]
    before = 16
    for group in range(3):
        after = 16 * 2**group * width
        for place in range(count):
            stride = 2 if group and place == 0 else 1
            layers.append(
                WideBlock(
                    before, after, stride, drop, norm=norm, track_running_stats=track_running_stats
                )
            )
            before = after
    layers += [norm_or_nothing(norm, before, track_running_stats), nn.ReLU(), GlobalMean()]
    body = nn.Sequential(*layers)
    initialise(body)
    return Network(body, None if outputs is None else nn.Linear(before, outputs), features=before)

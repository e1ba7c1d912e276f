"""ResNet-12, the residual network of the few-shot literature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from .conv import GlobalMean
from .dropblock import DropBlock, RampedDropBlock
from .network import Network
from .norm import Norm, norm_or_nothing

SLOPE = 0.1


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions beside a 1x1 shortcut, then LeakyReLU(0.1), a 2x2 max-pool, `drop`."""

    def __init__(
        self,
        inputs: int,
        width: int,
        drop: nn.Module,
        *,
        norm: Norm | None,
        track_running_stats: bool,
        skip: bool = True,
    ) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(before, width, 3, padding=1, bias=norm is None)
            for before in (inputs, width, width)
        )
        self.norm1, self.norm2, self.norm3 = (
            norm_or_nothing(norm, width, track_running_stats) for _ in range(3)
        )
        self.shortcut: nn.Module | None = None
        if skip:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, width, 1, bias=norm is None),
                norm_or_nothing(norm, width, track_running_stats),
            )
        self.act, self.pool, self.drop = nn.LeakyReLU(SLOPE), nn.MaxPool2d(2), drop

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm1(self.conv1(x)))
        y = self.act(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        return self.drop(self.pool(self.act(y)))


def resnet12(
    outputs: int | None,
    *,
    channels: int = 3,
    size: int = 84,
    widths: Sequence[int] = (64, 160, 320, 640),
    features: Literal["flatten", "mean"] = "flatten",
    drop: float = 0.1,
    block_size: int = 5,
    ramp_until: float | None = None,
    last_skip: bool = True,
    norm: Norm | None = "batch",
    track_running_stats: bool = False,
) -> Network:
    """ResNet-12 on images (n, channels, size, size): four residual blocks, 84-42-21-10-5 pixels.

    12,424,320 weights before the head. `features="flatten"` keeps the last map, 16000 features of
    84 pixels and 2560 of 32, as MetaOptNet does; "mean" averages it to 640. `outputs=None` builds
    no head. The other published widths are (64, 128, 256, 512), 7,996,800 weights, with "mean".

    The first two blocks end in dropout at rate `drop`, the last two in DropBlock with squares of
    `block_size` pixels (5 for 84-pixel images, 2 for 32), at the full rate,
    or rising to it over the first `ramp_until` of a training (a third in the authors' runs).
    `drop=0` has no random layer. `last_skip=False` leaves out the shortcut of the last block
    (BOIL). Convolutions have no bias, and weights from N(0, 2 / fan-out).

    Source: Lee et al. 2019 (MetaOptNet), section 4.1 and code; Oh et al. 2021 (BOIL) for (64, 128,
    256, 512) and `last_skip`.
    """
    widths = tuple(widths)
    if len(widths) != 4:
        raise ValueError(f"ResNet-12 has four blocks: expected four widths, got {widths}")
    if min(channels, size, *widths) < 1 or (outputs is not None and outputs < 1):
        raise ValueError(
            "channels, size, widths and outputs must be at least 1, got "
            f"{channels}, {size}, {widths} and {outputs}"
        )
    if features not in ("flatten", "mean"):
        raise ValueError(f"features must be 'flatten' or 'mean', got {features!r}")
    side = size // 16
    if side < 1:
        raise ValueError(
            f"four max-pools leave nothing of images of {size} x {size} pixels; they need "
            "size >= 16: enlarge the images, or use models.Conv4 with pool='stride'"
        )
    blocks = [
        ResidualBlock(
            before,
            width,
            _dropping(drop, 1 if place < 2 else block_size, ramp_until),
            norm=norm,
            track_running_stats=track_running_stats,
            skip=last_skip or place < 3,
        )
        for place, (before, width) in enumerate(zip((channels, *widths), widths, strict=False))
    ]
    for block in blocks:
        initialise(block)
    count = widths[-1] * (1 if features == "mean" else side * side)
    reduce = GlobalMean() if features == "mean" else nn.Flatten()
    head = None if outputs is None else nn.Linear(count, outputs)
    return Network(nn.Sequential(*blocks, reduce), head, features=count)


def _dropping(drop: float, block_size: int, until: float | None) -> nn.Module:
    """The authors' squares of one pixel are plain dropout, which is not ramped."""
    block = DropBlock(drop, block_size)  # checks both numbers
    if until is not None:
        block = RampedDropBlock(drop, block_size, until=until)
    if drop == 0:
        return nn.Identity()
    return nn.Dropout(drop) if block_size == 1 else block


def initialise(model: nn.Module) -> None:
    """Draw the weights of every convolution from N(0, 2 / fan-out), and set its bias to 0.

    Source: He et al. 2015, equation 10 for the backward pass.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

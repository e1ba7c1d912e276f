"""The four-block convolutional networks of the few-shot literature."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from .network import Network
from .norm import Norm, norm_layer

Pool = Literal["stride", "max", "max-same"]
Init = Literal["pytorch", "xavier", "maml", "imaml"]


class GlobalMean(nn.Module):
    """The mean over the pixels of a map: (n, c, h, w) to (n, c)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(-2, -1))


class Conv4(Network):
    """Blocks of 3x3 convolution, normalisation and ReLU, then a linear head.

    Inputs are images (n, channels, size, size), outputs (n, outputs). A block halves the map:
    `pool="stride"` by stride 2 (28-14-7-4-2), `pool="max"` by a 2x2 max-pool after a convolution of
    stride 1 (84-42-21-10-5), "max-same" by one that keeps the odd last row and column
    (84-42-21-11-6: Reptile on miniImageNet). `slope` is the activation below zero: 0 is ReLU, 0.01
    the LeakyReLU of MAML++. `features="mean"` averages the last map to (n, filters), which is what
    Finn et al. use on Omniglot; `features="flatten"` keeps it all. `outputs=None` builds no head.

    Padding. TensorFlow's SAME pads an even map only at the right and bottom, `padding=1` uses only
    its left and top pixels there; on odd maps both are symmetric. So this network is the mirror
    image of TensorFlow's: equal on flipped images with flipped kernels, and no copy is needed.

    `init="pytorch"` keeps PyTorch's initialisation; "xavier" is Xavier-uniform weights with zero
    biases; "maml" is "xavier" with the head's weights from N(0, 1), as in the authors' code;
    "imaml" is Xavier-uniform with gain 1.73 and biases from U(0, 0.05), as in iMAML's code.
    `track_running_stats` is off because of `norm_layer`'s reasons.

    Source: Finn et al. 2017, section 5.2 and code; iMAML and Reptile use `features="flatten"`.
    """

    def __init__(
        self,
        outputs: int | None,
        *,
        channels: int = 1,
        size: int = 28,
        filters: int = 64,
        blocks: int = 4,
        pool: Pool = "stride",
        slope: float = 0.0,
        features: Literal["mean", "flatten"] = "mean",
        norm: Norm | None = "batch",
        track_running_stats: bool = False,
        init: Init = "pytorch",
    ) -> None:
        if pool not in get_args(Pool):
            raise ValueError(f"pool must be 'stride', 'max' or 'max-same', got {pool!r}")
        if features not in ("mean", "flatten"):
            raise ValueError(f"features must be 'mean' or 'flatten', got {features!r}")
        if init not in get_args(Init):
            raise ValueError(f"init must be one of {get_args(Init)}, got {init!r}")
        if min(channels, size, filters, blocks) < 1 or (outputs is not None and outputs < 1):
            raise ValueError(
                "channels, size, filters, blocks and outputs must be at least 1, got "
                f"{channels}, {size}, {filters}, {blocks} and {outputs}"
            )
        layers: list[nn.Module] = []
        width, side = channels, size
        for _ in range(blocks):
            layers.append(_block(width, filters, pool, slope, norm, track_running_stats))
            width, side = filters, side // 2 if pool == "max" else (side + 1) // 2
        if side < 1:
            raise ValueError(
                f"{blocks} max-pools leave nothing of images of {size} x {size} pixels; "
                f"they need size >= {2**blocks}, or use pool='stride'"
            )
        layers.append(GlobalMean() if features == "mean" else nn.Flatten())
        count = filters if features == "mean" else filters * side * side
        head = None if outputs is None else nn.Linear(count, outputs)
        super().__init__(nn.Sequential(*layers), head, features=count)
        if init != "pytorch":
            _xavier(self, *((1.73, 0.05) if init == "imaml" else (1.0, 0.0)))
        if init == "maml" and isinstance(self.head, nn.Linear):
            nn.init.normal_(self.head.weight)


def mini_imagenet_conv4(outputs: int | None, *, filters: int = 32) -> Conv4:
    """The miniImageNet network: RGB images of 84 x 84, max-pools, flattened 5 x 5 x filters.

    Source: Finn et al. 2017, section 5.2 and code; 32 filters, 32.9 thousand weights for 5 ways.
    """
    return Conv4(
        outputs,
        channels=3,
        size=84,
        filters=filters,
        pool="max",
        features="flatten",
        init="xavier",
    )


def _block(
    inputs: int,
    filters: int,
    pool: Pool,
    slope: float,
    norm: Norm | None,
    track_running_stats: bool,
) -> nn.Sequential:
    stride = 2 if pool == "stride" else 1
    layers: list[nn.Module] = [nn.Conv2d(inputs, filters, 3, stride=stride, padding=1)]
    if norm is not None:
        layers.append(
            norm_layer(norm, filters, spatial=True, track_running_stats=track_running_stats)
        )
    layers.append(nn.LeakyReLU(slope) if slope else nn.ReLU())
    if pool != "stride":
        layers.append(nn.MaxPool2d(2, ceil_mode=pool == "max-same"))
    return nn.Sequential(*layers)


def _xavier(model: nn.Module, gain: float, bias: float) -> None:
    """Xavier-uniform weights, biases from U(0, bias)."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight, gain)
            if module.bias is None:
                continue
            if bias == 0:  # `uniform_` would draw even then, and so change the next layer's weights
                nn.init.zeros_(module.bias)
            else:
                nn.init.uniform_(module.bias, 0.0, bias)

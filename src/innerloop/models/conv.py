"""The four-block convolutional networks of the few-shot literature."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from .network import Network
from .norm import Norm, norm_layer


class GlobalMean(nn.Module):
    """The mean over the pixels of a map: (n, c, h, w) to (n, c)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(-2, -1))


class Conv4(Network):
    """Blocks of 3x3 convolution, normalisation and ReLU, then a linear head.

    Inputs are images (n, channels, size, size), outputs (n, outputs). A block halves the map:
    `pool="stride"` by stride 2 (28-14-7-4-2), `pool="max"` by a 2x2 max-pool after a convolution of
    stride 1 (84-42-21-10-5). `features="mean"` averages the last map to (n, filters), which is what
    Finn et al. use on Omniglot; `features="flatten"` keeps it all. `outputs=None` builds no head.

    Padding. TensorFlow's SAME pads an even map only at the right and bottom, `padding=1` uses only
    its left and top pixels there; on odd maps both are symmetric. So this network is the mirror
    image of TensorFlow's: equal on flipped images with flipped kernels, and no copy is needed.

    `init="pytorch"` keeps PyTorch's initialisation; "xavier" is Xavier-uniform weights with zero
    biases; "maml" is "xavier" with the head's weights from N(0, 1), as in the authors' code.
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
        pool: Literal["stride", "max"] = "stride",
        features: Literal["mean", "flatten"] = "mean",
        norm: Norm | None = "batch",
        track_running_stats: bool = False,
        init: Literal["pytorch", "xavier", "maml"] = "pytorch",
    ) -> None:
        if pool not in ("stride", "max"):
            raise ValueError(f"pool must be 'stride' or 'max', got {pool!r}")
        if features not in ("mean", "flatten"):
            raise ValueError(f"features must be 'mean' or 'flatten', got {features!r}")
        if init not in ("pytorch", "xavier", "maml"):
            raise ValueError(f"init must be 'pytorch', 'xavier' or 'maml', got {init!r}")
        if min(channels, size, filters, blocks) < 1 or (outputs is not None and outputs < 1):
            raise ValueError(
                "channels, size, filters, blocks and outputs must be at least 1, got "
                f"{channels}, {size}, {filters}, {blocks} and {outputs}"
            )
        layers: list[nn.Module] = []
        width, side = channels, size
        for _ in range(blocks):
            layers.append(_block(width, filters, pool, norm, track_running_stats))
            width, side = filters, (side + 1) // 2 if pool == "stride" else side // 2
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
            _xavier(self)
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
    pool: Literal["stride", "max"],
    norm: Norm | None,
    track_running_stats: bool,
) -> nn.Sequential:
    stride = 2 if pool == "stride" else 1
    layers: list[nn.Module] = [nn.Conv2d(inputs, filters, 3, stride=stride, padding=1)]
    if norm is not None:
        layers.append(
            norm_layer(norm, filters, spatial=True, track_running_stats=track_running_stats)
        )
    layers.append(nn.ReLU())
    if pool == "max":
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _xavier(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

"""Fully connected networks: the sine regressor, and the non-convolutional Omniglot network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from torch import nn

from .network import Network
from .norm import Norm, norm_layer

Activation = Literal["relu", "tanh", "gelu", "silu"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def mlp(
    inputs: int,
    outputs: int | None,
    hidden: Sequence[int] = (40, 40),
    norm: bool | Norm = False,
    *,
    activation: Activation = "relu",
    init: Literal["pytorch", "truncated_normal"] = "pytorch",
    std: float = 0.01,
    track_running_stats: bool = False,
) -> Network:
    """A fully connected network: (n, ...) with `inputs` entries per example to (n, outputs).

    Each hidden layer is linear, then normalised if `norm` (True means "batch"), then activated.
    `init="pytorch"` leaves PyTorch's uniform initialisation.
    `init="truncated_normal"` draws weights from N(0, std^2) cut at two standard deviations and sets
    biases to 0. `outputs=None` builds no head: the outputs are the features.

    Source: Finn et al. 2017, section 5.1 (1-40-40-1, ReLU) and the authors' code (truncated normal,
    standard deviation 0.01).
    """
    sizes = [inputs, *hidden]
    if min(sizes) < 1 or (outputs is not None and outputs < 1):
        raise ValueError(f"layer sizes must be at least 1, got {[*sizes, outputs]}")
    if outputs is None and not hidden:
        raise ValueError("mlp(outputs=None, hidden=()) has no layer; give a hidden size")
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {tuple(_ACTIVATIONS)}, got {activation!r}")
    if init not in ("pytorch", "truncated_normal"):
        raise ValueError(f"init must be 'pytorch' or 'truncated_normal', got {init!r}")
    kind: Norm | None = "batch" if norm is True else norm or None
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(sizes):
        layers.append(nn.Linear(before, after))
        if kind is not None:
            layers.append(
                norm_layer(kind, after, spatial=False, track_running_stats=track_running_stats)
            )
        layers.append(_ACTIVATIONS[activation]())
    head = None if outputs is None else nn.Linear(sizes[-1], outputs)
    model = Network(nn.Sequential(*layers), head, features=sizes[-1])
    if init == "truncated_normal":
        truncated_normal(model, std)
    return model


def fully_connected(
    outputs: int | None, *, inputs: int = 784, hidden: Sequence[int] = (256, 128, 64, 64)
) -> Network:
    """The non-convolutional Omniglot network: 784-256-128-64-64-outputs with BatchNorm and ReLU.

    Source: Finn et al. 2017, section 5.2; weights from a truncated N(0, 0.01^2), biases 0 (code).
    """
    return mlp(inputs, outputs, hidden, norm="batch", init="truncated_normal")


def truncated_normal(model: nn.Module, std: float) -> None:
    """Draw every linear weight of `model` from N(0, std^2) cut at 2 std, and set its bias to 0."""
    if not std > 0:
        raise ValueError(f"std must be positive, got {std}")
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

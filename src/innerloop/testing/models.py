"""Tiny networks, one for each kind of layer. Smooth, so that finite differences mean something."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ..models import Contextual, bias_transformed, mlp


class Images(nn.Sequential):
    """A convolution of 1 x 6 x 6 images to 3 maps, layers, a mean over 2 x 2 pixels, a head."""

    def __init__(self, *middle: nn.Module, pool: nn.Module | None = None) -> None:
        reduce = [pool or nn.AvgPool2d(2), nn.Flatten(), nn.Linear(27, 3)]
        super().__init__(nn.Conv2d(1, 3, 3, padding=1), *middle, *reduce)


class Features(nn.Sequential):
    """2 inputs, 6 features, layers, 3 outputs."""

    def __init__(self, *middle: nn.Module) -> None:
        super().__init__(nn.Linear(2, 6), *middle, nn.Tanh(), nn.Linear(6, 3))


class Sequence(nn.Module):
    """A layer over sequences of 3 steps with 2 features, then a head on the last step."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        return self.head((out[0] if isinstance(out, tuple) else out)[:, -1])


class Cells(nn.Module):
    """A recurrent cell stepped by hand."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        first, *later = x.unbind(1)
        state = self.cell(first)
        for step in later:
            state = self.cell(step, state)
        return (state[0] if isinstance(state, tuple) else state).unsqueeze(1)


class Attention(nn.Module):
    """`nn.MultiheadAttention` by the scaled-dot-product kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.layer = nn.Linear(2, 4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        return self.layer(x, x, x, need_weights=False)[0]


class Encoder(nn.Module):
    """A transformer block."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            4, 2, 5, dropout=dropout, activation="gelu", batch_first=True
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.cat([x, x.sin()], -1))


class Tied(nn.Module):
    """One layer used twice under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(torch.cat([x, x.cos()], -1)).tanh()
        return self.head(self.second(x).tanh())


class Unused(Features):
    """Owns a layer that the output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self[2](self[1](self[0](x)))


class Buffered(nn.Module):
    """Reads one buffer, and counts its calls in another."""

    calls: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = Features()
        self.register_buffer("scale", torch.tensor([0.5, 2.0]))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x * self.scale)


class Words(nn.Module):
    """The mean embedding of a sequence of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(8, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x).mean(1).tanh())


class MaskedWords(nn.Module):
    """The mean embedding of the words that are not masked."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(8, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        shown = self.table(ids) * mask.unsqueeze(-1)
        return self.head((shown.sum(1) / mask.sum(1, keepdim=True)).tanh())


class LowRank(nn.Module):
    """A frozen linear layer with a trained low-rank addition: x -> W x + up down x."""

    def __init__(self, inputs: int, outputs: int, rank: int = 2) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down = nn.Parameter(0.5 * torch.randn(rank, inputs))
        self.up = nn.Parameter(0.5 * torch.randn(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.mT @ self.up.mT


def low_rank() -> nn.Module:
    return nn.Sequential(LowRank(2, 6), nn.Tanh(), LowRank(6, 3))


def scalar_field() -> nn.Module:
    """One number in, one smooth number out."""
    return mlp(1, 1, (6,), activation="tanh")


def frozen() -> nn.Module:
    """The first layer takes no part in anything."""
    net = Features(nn.BatchNorm1d(6))
    net[0].requires_grad_(False)
    return net


def pretrained() -> nn.Module:
    """BatchNorm with running statistics that are not the initial ones."""
    net = Features(nn.BatchNorm1d(6))
    layer = net[1]
    assert isinstance(layer, nn.BatchNorm1d)
    layer.running_mean, layer.running_var = torch.linspace(-1, 1, 6), torch.linspace(0.5, 2, 6)
    return net


def embedded() -> nn.Module:
    return Sequence(Encoder(0.0), 4).eval()


FLAT: dict[str, Callable[[], nn.Module]] = {
    "perceptron": Features,
    "BatchNorm, affine": lambda: Features(nn.BatchNorm1d(6, track_running_stats=False)),
    "BatchNorm, not affine": lambda: Features(nn.BatchNorm1d(6, affine=False)),
    "LayerNorm": lambda: Features(nn.LayerNorm(6)),
    "RMSNorm": lambda: Features(nn.RMSNorm(6)),
    "GroupNorm": lambda: Features(nn.GroupNorm(2, 6)),
    "dropout": lambda: Features(nn.Dropout(0.3)),
    "weight norm": lambda: Features(parametrizations.weight_norm(nn.Linear(6, 6))),
    "softplus, GELU": lambda: Features(nn.Softplus(), nn.Linear(6, 6), nn.GELU()),
    "tied weights": Tied,
    "frozen layer": frozen,
    "unused layer": Unused,
    "buffers": Buffered,
}
"""On inputs (n, 2)."""

PICTURES: dict[str, Callable[[], nn.Module]] = {
    "convolution, max-pool": lambda: Images(nn.GELU(), pool=nn.MaxPool2d(2)),
    "BatchNorm2d, affine": lambda: Images(nn.BatchNorm2d(3), nn.Tanh()),
    "InstanceNorm2d, affine": lambda: Images(nn.InstanceNorm2d(3, affine=True), nn.Tanh()),
    "GroupNorm, maps": lambda: Images(nn.GroupNorm(1, 3), nn.Tanh()),
    "dropout of maps": lambda: Images(nn.Tanh(), nn.Dropout2d(0.3)),
}
"""On inputs (n, 1, 6, 6)."""

SEQUENCES: dict[str, Callable[[], nn.Module]] = {
    "multi-head attention": lambda: Sequence(Attention(), 4),
    "transformer block": lambda: Sequence(Encoder(0.0), 4),
    "transformer block, eval mode": embedded,
    "transformer block, dropout": lambda: Sequence(Encoder(0.1), 4),
    "LSTM": lambda: Sequence(nn.LSTM(2, 3, batch_first=True), 3),
    "GRU": lambda: Sequence(nn.GRU(2, 3, batch_first=True), 3),
    "RNN": lambda: Sequence(nn.RNN(2, 4, batch_first=True), 4),
    "LSTM cell": lambda: Sequence(Cells(nn.LSTMCell(2, 3)), 3),
    "GRU cell": lambda: Sequence(Cells(nn.GRUCell(2, 3)), 3),
}
"""On inputs (n, 3, 2)."""


def contextual() -> nn.Module:
    """A context of 3 numbers beside 2 inputs."""
    return Contextual(mlp(2, 3, (5,), activation="tanh"), 3)


def modulated() -> nn.Module:
    """A context of 3 numbers that scales and shifts the maps of a convolution."""
    return Contextual(Images(nn.Tanh()), 3, layers=[""])


def biased() -> nn.Module:
    """A learned vector of 2 numbers beside the input of every linear layer."""
    return bias_transformed(Features(nn.LayerNorm(6)), 2, layers=("*",))


def dense() -> nn.Module:
    """A class for every pixel: outputs (n, 3, 4, 4)."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1))

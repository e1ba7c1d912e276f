"""Whose statistics a normalisation layer uses: an explicit, named policy.

| policy    | inner loop           | query                          |
|-----------|----------------------|--------------------------------|
| `batch`   | the support batch    | the query batch (transductive) |
| `support` | the support batch    | the support batch              |
| `running` | the running averages | the running averages           |

`batch` is MAML's and most papers'; a prediction then depends on the other queries beside it.
`support` and `running` are not transductive. LayerNorm, GroupNorm and InstanceNorm without running
statistics use each example's own statistics and need no policy.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from .slots import Entry

Policy = Literal["batch", "support", "running"]


class Rows:
    """Which rows of a pass are the support set: the first `support` of `total`."""

    def __init__(self) -> None:
        self.support: int | None = None
        self.total: int | None = None


class SupportNorm:
    """Batch normalisation by the statistics of the first rows: the support set.

    Takes the place of the `forward` of a BatchNorm layer of any dimension. Where the model folds
    another axis into the first one, examples must come before it: (n * k, ...). Unless `rows` says
    otherwise, all of them count.
    """

    def __init__(self, layer: _BatchNorm, name: str, rows: Rows):
        self.layer = layer
        self.name = name
        self.rows = rows

    def __call__(self, input: Tensor) -> Tensor:
        layer, x = self.layer, input
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, variance = self.statistics(x)
        scale = (variance + layer.eps).rsqrt()
        scale = scale if layer.weight is None else scale * layer.weight
        shift = -mean * scale if layer.bias is None else layer.bias - mean * scale
        return x * scale.reshape(shape) + shift.reshape(shape)

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel, over the support rows."""
        axes = [0, *range(2, x.dim())]
        variance, mean = torch.var_mean(x[: self._rows_of(x)], axes, correction=0)
        return mean, variance

    def _rows_of(self, x: Tensor) -> int | None:
        rows = self.rows
        if rows.support is None or rows.total is None:
            return None
        folded, left = divmod(len(x), rows.total)
        if left or not folded:
            raise ValueError(
                f"layer `{self.name}` normalises {len(x)} rows, not {rows.total} examples or a "
                'multiple: norm="support" cannot tell support and query apart there. Use '
                'norm="batch"'
            )
        return rows.support * folded


class Watched(SupportNorm):
    """The same over all rows, noting what statistics the layer saw at each time it ran."""

    def __init__(self, layer: _BatchNorm, name: str):
        super().__init__(layer, name, Rows())
        self.seen: list[tuple[Tensor, Tensor]] = []

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = super().statistics(x)
        self.seen.append((mean.detach(), variance.detach()))
        return mean, variance


def choose(model: nn.Module, norm: str | None) -> Policy:
    """The policy to use: `norm`, or `batch` where nothing contradicts it.

    Raises ValueError with the layer's name when the policy is unknown, a layer cannot follow it, or
    none was given although some layers are in eval mode and others are not.
    """
    if norm is not None and norm not in get_args(Policy):
        raise ValueError(f"unknown normalisation policy {norm!r}; use one of {get_args(Policy)}")
    layers = tracking(model)
    for name, layer in layers.items():
        _refuse_unknown(name, layer)
        if norm == "running" and layer.running_mean is None:
            raise ValueError(
                f'norm="running" needs running statistics, and layer `{name}` keeps none; build it '
                'with track_running_stats=True and train it first, or use norm="batch"'
            )
    if norm is None and len({layer.training for layer in layers.values()}) > 1:
        frozen = [name for name, layer in layers.items() if not layer.training]
        raise ValueError(
            f"ambiguous normalisation: layer `{frozen[0]}` is in eval mode and others are not. Say "
            'which statistics to use: norm="batch", norm="support" or norm="running"'
        )
    return norm or "batch"  # type: ignore[return-value]


def apply(model: nn.Module, policy: Policy) -> list[str]:
    """Make the layers of `model` (a private copy) use running averages or their batch's statistics;
    returns their names."""
    layers = tracking(model)
    for home, key, value in entries(layers, policy):
        home[key] = value
    return list(layers)


def entries(layers: dict[str, _NormBase], policy: Policy) -> list[Entry]:
    """What makes these layers follow the policy: values in their dictionaries.

    Without running statistics a layer uses its batch's in training and eval mode alike. Under
    `support` a BatchNorm layer needs a `SupportNorm` in place of its `forward` as well.
    """
    found: list[Entry] = []
    for layer in layers.values():
        if policy == "running":
            found.append((layer.__dict__, "training", False))
            continue
        found.append((layer.__dict__, "track_running_stats", False))
        found += [
            (layer._buffers, k, None)
            for k in ("running_mean", "running_var", "num_batches_tracked")
            if layer._buffers.get(k) is not None
        ]
    return found


def pin(layer: _NormBase) -> None:
    """Make a layer of a module that is handed out use its batch's statistics in any mode.

    It stays in training mode, where the statistics it holds are neither read nor written; so it
    keeps its class and its entries of the state_dict.
    """
    layer.track_running_stats = False
    layer.momentum = 0.0  # an InstanceNorm writes its averages all the same
    layer.training = True
    layer.train = partial(_stay, layer)  # type: ignore[method-assign, assignment]


def _stay(layer: nn.Module, mode: bool = True) -> nn.Module:
    return layer


def freeze(layer: _BatchNorm, mean: Tensor, variance: Tensor, *, needed: bool) -> None:
    """Store statistics as the running ones of a layer.

    A layer that was built without any gets buffers outside of the state_dict, if they are `needed`,
    so that this still fits the user's own network.
    """
    if layer.running_mean is not None and layer.running_var is not None:
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
        return
    if needed:
        layer.track_running_stats = True
        layer.register_buffer("running_mean", mean, persistent=False)
        layer.register_buffer("running_var", variance, persistent=False)


def tracking(model: nn.Module) -> dict[str, _NormBase]:
    """The layers a policy speaks about: BatchNorm, and InstanceNorm that keeps running averages."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm)
        or (isinstance(layer, _InstanceNorm) and layer.track_running_stats)
    }


def _refuse_unknown(name: str, layer: _NormBase) -> None:
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        raise ValueError(f"layer `{name}` is lazy: run the model once on a batch first")
    plain = isinstance(layer, _InstanceNorm) or type(layer).forward is _BatchNorm.forward
    if plain and "forward" not in layer.__dict__:
        return
    raise ValueError(
        f"layer `{name}` is a {type(layer).__name__}, whose statistics innerloop does not know; "
        "replace it by nn.BatchNorm1d/2d/3d, GroupNorm or LayerNorm"
    )

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

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

Policy = Literal["batch", "support", "running"]
_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SupportNorm(nn.Module):
    """Batch normalisation by the statistics of the first `rows` of `total` examples: the support.

    Weight and bias keep their names, so it stands in for a BatchNorm layer of any dimension. Where
    the model folds another axis into the first one, examples must come before it: (n * k, ...).
    """

    def __init__(self, layer: _BatchNorm, name: str):
        super().__init__()
        self.weight = layer.weight
        self.bias = layer.bias
        self.eps = layer.eps
        self.name = name
        self.rows: int | None = None
        self.total: int | None = None
        self.recording = False
        self.seen: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        variance, mean = torch.var_mean(x[: self._rows_of(x)], axes, correction=0)
        if self.recording:
            self.seen = (mean.detach(), variance.detach())
        scale = (variance + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        return x * scale.reshape(shape) + shift.reshape(shape)

    def _rows_of(self, x: Tensor) -> int | None:
        if self.rows is None or self.total is None:
            return None
        folded, left = divmod(len(x), self.total)
        if left or not folded:
            raise ValueError(
                f"layer `{self.name}` normalises {len(x)} rows, not {self.total} examples or a "
                'multiple: norm="support" cannot tell support and query apart there. Use '
                'norm="batch"'
            )
        return self.rows * folded


def choose(model: nn.Module, norm: str | None) -> Policy:
    """The policy to use: `norm`, or `batch` where nothing contradicts it.

    Raises ValueError with the layer's name when the policy is unknown, a layer cannot follow it, or
    none was given although some layers are in eval mode and others are not.
    """
    if norm is not None and norm not in get_args(Policy):
        raise ValueError(f"unknown normalisation policy {norm!r}; use one of {get_args(Policy)}")
    layers = _tracking(model)
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
    """Make the layers of `model` (a private copy) follow the policy; returns their names."""
    layers = _tracking(model)
    for name, layer in layers.items():
        if policy == "running":
            layer.eval()
        elif policy == "support" and isinstance(layer, _BatchNorm):
            _replace(model, layer, SupportNorm(layer, name))
        else:
            forget_running(layer)
    return list(layers)


def _replace(model: nn.Module, layer: nn.Module, other: nn.Module) -> None:
    """Put `other` wherever `layer` hangs in the tree."""
    if model is layer:
        raise ValueError(
            'norm="support" cannot stand in for a model that is one normalisation layer; wrap it '
            "in nn.Sequential"
        )
    for parent in list(model.modules()):
        for child, module in list(parent._modules.items()):
            if module is layer:
                setattr(parent, child, other)


def forget_running(layer: _NormBase) -> None:
    """Without running statistics a layer uses its batch's in training and eval mode alike."""
    layer.track_running_stats = False
    layer.running_mean = layer.running_var = layer.num_batches_tracked = None


def freeze(model: nn.Module, source: nn.Module) -> None:
    """Store the support statistics last seen by `source` as the running ones of `model`."""
    for name, layer in source.named_modules():
        if isinstance(layer, SupportNorm) and layer.seen is not None:
            target = model.get_submodule(name)
            assert isinstance(target, _BatchNorm)
            mean, variance = layer.seen
            layer.seen = None
            target.track_running_stats = True
            target.register_buffer("running_mean", mean)
            target.register_buffer("running_var", variance)
            target.register_buffer("num_batches_tracked", torch.tensor(1))


def _tracking(model: nn.Module) -> dict[str, _NormBase]:
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
    if isinstance(layer, _InstanceNorm) or type(layer) in _PLAIN:
        return
    if type(layer).forward is _BatchNorm.forward:
        return
    raise ValueError(
        f"layer `{name}` is a {type(layer).__name__}, whose statistics innerloop does not know; "
        "replace it by nn.BatchNorm1d/2d/3d, GroupNorm or LayerNorm"
    )

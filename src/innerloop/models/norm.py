"""Normalisation layers by name, and the initialisations of the papers."""

from __future__ import annotations

from typing import Literal

from torch import nn

Norm = Literal["batch", "instance", "group", "layer"]
NORMS: tuple[Norm, ...] = ("batch", "instance", "group", "layer")


def norm_layer(
    kind: Norm, width: int, *, spatial: bool, track_running_stats: bool = False
) -> nn.Module:
    """The layer that normalises `width` channels of (n, width) or, if `spatial`, (n, width, h, w).

    `batch` keeps no running statistics unless asked: few-shot networks are normalised with the
    statistics of the batch that is pushed through, at training and at test (code of Finn et al.
    2017). Statistics averaged over tasks would be written during adaptation, mix the tasks, and
    describe none of them. `track_running_stats=True` is for networks that are to run with averaged
    statistics, such as a conventionally pre-trained one.
    """
    if kind == "batch":
        layer = nn.BatchNorm2d if spatial else nn.BatchNorm1d
        return layer(width, track_running_stats=track_running_stats)
    if track_running_stats:
        raise ValueError(f"only norm='batch' can track running statistics, not norm={kind!r}")
    if kind == "instance":
        if not spatial:
            raise ValueError("norm='instance' needs images (n, channels, h, w); use 'layer'")
        return nn.InstanceNorm2d(width, affine=True)
    if kind == "group":
        groups = next(g for g in (8, 4, 2, 1) if width % g == 0)
        return nn.GroupNorm(groups, width)
    if kind == "layer":
        return nn.GroupNorm(1, width) if spatial else nn.LayerNorm(width)
    raise ValueError(f"norm must be one of {NORMS} or None, got {kind!r}")


def norm_or_nothing(kind: Norm | None, width: int, track_running_stats: bool) -> nn.Module:
    """The layer that normalises (n, width, h, w), or the identity where `kind` is None."""
    if kind is None:
        return nn.Identity()
    return norm_layer(kind, width, spatial=True, track_running_stats=track_running_stats)

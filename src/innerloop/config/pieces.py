"""Networks and methods of a run, as config sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from .. import methods, models
from ..data.source import Spec, Splits
from ..train.baseline import Trainable
from . import baselines, own_pieces
from .own import OwnModel, is_place
from .signature import section
from .sources import NO_FILES

MLP = section("mlp", models.mlp, given=("inputs", "outputs"))
_IMAGES = ("outputs", "channels", "size")
Conv4 = section("conv4", models.Conv4, given=_IMAGES)
ResNet12 = section("resnet12", models.resnet12, given=_IMAGES)
WideResNet = section("wide_resnet", models.wide_resnet, given=_IMAGES)
R2D2Net = section("r2d2_net", models.r2d2_net, given=_IMAGES)

MODELS: dict[str, Any] = {s.kind: s for s in (MLP, Conv4, ResNet12, WideResNet, R2D2Net)}

PRETRAINED, DEML = "pretrained", "deml"
GIVEN = {DEML: ("model", "discriminator")}
"""What a run gives to a method's function beside its settings; most take the model only."""
METHODS: dict[str, Any] = {
    name: section(name, method.function, given=GIVEN.get(name, ("model",)))
    for name, method in methods.METHODS.items()
} | {PRETRAINED: section(PRETRAINED, baselines.pretrained, given=("model", "classes"))}


def ends_at_features(kind: str) -> bool:
    """Whether the network of this method has no head."""
    return kind in methods.METHODS and methods.METHODS[kind].features


def network(
    settings: Any, spec: Spec, *, head: bool = True, digests: Mapping[str, str] = NO_FILES
) -> nn.Module:
    """The network for examples of this shape; `head=False` ends at its features.

    `digests` are those that the run has kept of its own files.
    """
    outputs = spec.outputs if head else None
    if isinstance(settings, OwnModel):
        return own_pieces.network(settings.place, spec, outputs, digests)
    if isinstance(settings, MLP):
        inputs = 1
        for size in spec.x_shape:
            inputs *= size
        return settings.call(inputs=inputs, outputs=outputs)
    if len(spec.x_shape) != 3 or spec.x_shape[1] != spec.x_shape[2]:
        raise ValueError(
            f"model.kind={settings.kind} needs square images (channels, size, size), but the data "
            f"gives {spec.x_shape}; use model.kind=mlp"
        )
    channels, size = spec.x_shape[:2]
    if isinstance(settings, WideResNet):  # averages over maps of any size
        return settings.call(outputs=outputs, channels=channels)
    return settings.call(outputs=outputs, channels=channels, size=size)


def build(
    method: Any,
    model: Any,
    spec: Spec,
    classes: int | None,
    digests: Mapping[str, str] = NO_FILES,
) -> Trainable:
    """The method on a new network for tasks of this shape.

    `classes` is the number of training classes, for a method that is trained on all at once, or
    those of the labelled examples for one with a discriminator. `digests` are those that the run
    has kept of its own files.
    """
    made = network(model, spec, head=not ends_at_features(method.kind), digests=digests)
    rest: dict[str, Any] = {}
    if is_place(getattr(method, "loss", "")):
        rest["loss"] = own_pieces.loss(method.loss, digests)
    if method.kind == PRETRAINED:
        return method.call(made, classes=classes, **rest)
    if method.kind == DEML:
        if classes is None:
            raise ValueError("method.kind=deml needs classes to tell apart, and values have none")
        if not isinstance(made, models.Network):
            raise ValueError(
                "method.kind=deml teaches the features of a network in two parts: give a "
                f"innerloop.models.Network(body, head, features=N), got {type(made).__name__}"
            )
        return method.call(made, nn.Linear(made.features, classes), **rest)
    return method.call(made, **rest)


def training_sources(method: Any, splits: Splits) -> Splits:
    """The sources that this method is trained and tested on."""
    if method.kind != PRETRAINED:
        return splits
    return Splits(baselines.joint_source(splits), splits.validation, splits.test)

"""Adapted models back from their folders."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..data.images.files import Channels
from .photos import read_photos
from .program import Program

FORMAT = "innerloop-adapted-2"
READABLE = (FORMAT, "innerloop-adapted-1")
WEIGHTS, PROGRAM, ABOUT = "adapted.safetensors", "adapted.program.json", "adapted.json"
CONSTANT = "constant:"
"""What the names of tensors begin with that belong to the program and not to the state dict."""


@dataclass(frozen=True)
class Preprocess:
    """What turns a picture into the input of an adapted model: (channels, height, width)."""

    size: tuple[int, int]
    channels: Channels
    invert: bool

    def __call__(self, picture: str | Path | Image.Image) -> Tensor:
        """A file or a Pillow image as float32 in [0, 1]; stack several to (n, ...) for the model.

        Raises: ValueError naming the file if it cannot be read as an image.
        """
        if not isinstance(picture, Image.Image):
            return read_photos([Path(picture)], self.size, self.channels, self.invert)[0]
        # By way of a file, without loss: there is one way to read a picture, and no second one.
        upright = ImageOps.exif_transpose(picture)
        if "transparency" in upright.info:
            upright = upright.convert("RGBA")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "picture.tiff")
            upright.save(path)
            return read_photos([path], self.size, self.channels, self.invert)[0]


class AdaptedModel(nn.Module):
    """An adapted network with the names of its classes, ready for pictures.

    forward: x (n, channels, height, width) as `preprocess` makes it -> (n, classes), as many
    columns as there are `classes`; their softmax gives the probabilities that `adapt_images` wrote.
    `network` is the whole network; its state dict fits the one that was adapted. With
    `depends_on_neighbours` an answer depends on the other pictures of x (norm="batch").
    """

    def __init__(
        self,
        network: nn.Module,
        classes: list[str],
        preprocess: Preprocess,
        depends_on_neighbours: bool,
    ) -> None:
        super().__init__()
        self.network = network
        self.classes = classes
        self.preprocess = preprocess
        self.depends_on_neighbours = depends_on_neighbours

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.network(x)
        return outputs[:, : len(self.classes)]


def load(folder: str | Path) -> AdaptedModel:
    """The adapted model that `adapt_images` or `innerloop adapt` wrote into `folder`.

    It needs no code of the network's and runs none from the folder: a list of tensor operations
    and their tensors. It is in eval mode, on the CPU.

    Raises: ValueError if the folder holds no adapted model, files were changed since, or the
    network could not be written as operations; the message says what to do.
    """
    folder = Path(folder)
    about, weights = _read(folder)
    if about["format"] != FORMAT or about["digests"].get(PROGRAM) is None:
        raise ValueError(
            f"{folder} holds no program to build its model from"
            f" ({about.get('no_program', 'it was written by an earlier version')}): build the "
            "network in code and fill it with innerloop.pictures.load_adapted(FOLDER, model)."
        )
    content = _content(folder, PROGRAM, about)
    try:
        told = json.loads(content)
        network = Program(told, {k.removeprefix(CONSTANT): v for k, v in weights.items()})
        given = about["input"]
        preprocess = Preprocess(_pair(given["size"]), given["channels"], bool(given["invert"]))
        classes = [str(name) for name in about["classes"]]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder} is damaged: {error}. Adapt again.") from error
    return AdaptedModel(network, classes, preprocess, bool(about["depends_on_neighbours"])).eval()


def load_adapted(folder: str | Path, module: nn.Module) -> list[str]:
    """Fill `module`, built like the trained model, with an adapted one; returns its class names.

    For code that wants the network's own class; `load` needs none. Output i stands for the i-th
    class. The normalisation policy comes with the weights: layers without stored statistics use
    those of the batch they get. The module is put in eval mode. An adapted ProtoNet is loaded into
    `ProtoClassifier(model, torch.empty(classes, features))`.

    Raises: ValueError if `adapt_images` did not write the folder, or the weights do not fit.
    """
    folder = Path(folder)
    about, weights = _read(folder)
    weights = {k: v for k, v in weights.items() if not k.startswith(CONSTANT)}
    for name, layer in module.named_modules():
        if isinstance(layer, _NormBase):
            _follow(layer, name, weights)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{folder / WEIGHTS} does not fit {type(module).__name__}: {error}. Build the model as "
            f"described under 'model' in {ABOUT}, or call innerloop.load({str(folder)!r}), which "
            "needs none."
        ) from error
    if about.get("norm") == "batch":
        # The weights bring the support set's statistics along; the policy does not use them.
        for layer in module.modules():
            if isinstance(layer, _NormBase):
                layer.track_running_stats = False
                layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    module.eval()
    return [str(name) for name in about["classes"]]


def digest(content: bytes) -> str:
    """What tells a file from a damaged one."""
    return hashlib.sha256(content).hexdigest()


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the folder says of itself, and its tensors.

    Raises: ValueError if there is no adapted model in it, or its weights were changed.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if not isinstance(about, dict) or about.get("format") not in READABLE:
            raise ValueError(f"{ABOUT} is not of format {FORMAT}")
        weights = safetensors.torch.load(_content(folder, WEIGHTS, about))
    except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{folder} holds no adapted model ({error}): expected {WEIGHTS} and {ABOUT}, as "
            "`innerloop adapt --out DIR` writes them."
        ) from error
    return about, weights


def _content(folder: Path, name: str, about: Mapping[str, Any]) -> bytes:
    content = (folder / name).read_bytes()
    digests = about.get("digests")  # the first format had none
    if digests is not None and digests.get(name) != digest(content):
        raise ValueError(f"{folder / name} is damaged or of another model: its digest differs")
    return content


def _follow(layer: _NormBase, name: str, weights: dict[str, Tensor]) -> None:
    """Give the layer running statistics exactly if the file has some for it."""
    for buffer in ("running_mean", "running_var", "num_batches_tracked"):
        stored = weights.get(f"{name}.{buffer}" if name else buffer)
        layer.register_buffer(buffer, None if stored is None else torch.empty_like(stored))
    layer.track_running_stats = layer.running_mean is not None


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return cast(int, height), cast(int, width)

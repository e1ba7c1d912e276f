"""Image files to tensors."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
Channels = Literal[1, 3]

_DEEP_MODES = {"I;16": 65535.0, "I;16B": 65535.0, "I;16L": 65535.0, "I": 65535.0, "F": 1.0}
"""Pillow modes that `convert` would clip to 0..255, with the value that means white."""


class BadImage(ValueError):
    """A file that cannot be used as an image, and why."""


def is_image(path: Path) -> bool:
    """Whether the name says that this is an image; hidden files do not count."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_image(
    path: Path | str,
    size: int | tuple[int, int],
    channels: Channels = 3,
    *,
    box: tuple[float, ...] | None = None,
) -> Tensor:
    """One image file as uint8 (channels, height, width), resized without keeping its proportions.

    `size` is the side or (height, width) in pixels; `channels` 1 is grey, 3 is RGB. `box`, left,
    top, width and height in pixels, is the part of the image to take. The camera's
    orientation tag is obeyed, transparency is laid on white, 16-bit greys are scaled to 8 bits and
    floats are taken as 0..1.

    Raises BadImage (a ValueError) naming the file when it is not an image, is cut short, or holds
    NaN; FileNotFoundError when there is none.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no image file {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened)
                plain = _eight_bits(image).convert("L" if channels == 1 else "RGB")
                plain = plain if box is None else plain.crop(_inside(box, plain.size))
    except BadImage as error:
        raise BadImage(f"{path}: {error}") from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombWarning,
        Image.DecompressionBombError,
    ) as error:
        reason = str(error).replace(f"'{path}'", "it").replace(str(path), "it")
        raise BadImage(f"{path}: not a readable image ({reason})") from error
    if plain.size != (width, height):
        plain = plain.resize((width, height), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(plain, np.uint8))
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def _inside(box: tuple[float, ...], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of the box that lies in an image of this size."""
    left, top = max(0, round(box[0])), max(0, round(box[1]))
    right, bottom = min(size[0], round(box[0] + box[2])), min(size[1], round(box[1] + box[3]))
    if right <= left or bottom <= top:
        raise BadImage(f"the box {box} lies outside of the image of {size[0]} x {size[1]} pixels")
    return left, top, right, bottom


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image in a mode that `convert` handles without clipping, transparency laid on white."""
    if image.mode in _DEEP_MODES:
        values = np.asarray(image, np.float64)
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise BadImage(f"{bad} of {values.size} pixels are NaN or infinite")
        top = _DEEP_MODES[image.mode]
        if image.mode == "F" and (values.min() < 0 or values.max() > 1):
            raise BadImage(
                f"floating point pixels must lie in 0..1, got {values.min():g}..{values.max():g}"
            )
        return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        drawn = image.convert("RGBA")
        paper = Image.new("RGBA", drawn.size, "white")
        return Image.alpha_composite(paper, drawn)
    return image

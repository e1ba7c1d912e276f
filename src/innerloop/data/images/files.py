"""Image files to tensors."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
"""What is decoded, whatever a file is called. Pillow goes by content and would ask every plugin it
has: one of them hands Encapsulated PostScript to Ghostscript, an interpreter of programs."""

MOST_PIXELS = 89_478_485
"""The largest image that is decoded, Pillow's own limit: 9459 x 9459, in memory about 0.8 GB."""

Channels = Literal[1, 3]

_STRIP = 1 << 20
"""Pixels converted at a time, so that a large image is not there several times."""

_DEEP_MODES = {"I;16": 65535.0, "I;16B": 65535.0, "I;16L": 65535.0, "I": 65535.0, "F": 1.0}
"""Pillow modes that `convert` would clip to 0..255, with the value that means white."""


class BadImage(ValueError):
    """A file that cannot be used as an image, and why."""


def is_image(path: Path) -> bool:
    """Whether the name says that this is an image; hidden files do not count."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


@contextmanager
def open_image(file: Path | BinaryIO, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """The image in `file`, which must be of one of `formats`; the one place that opens images.

    Pillow decodes lazily, so the block is watched as well: whatever a damaged file raises there is
    a BadImage (a ValueError) that says why. More than `MOST_PIXELS` pixels are refused unread.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=formats) as opened:
                if opened.width * opened.height > MOST_PIXELS:  # Pillow's limit can be switched off
                    raise BadImage(
                        f"{opened.width} x {opened.height} pixels, at most {MOST_PIXELS} are read"
                    )
                yield opened
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        *others, last = formats
        words = f"{', '.join(others)} or {last}" if others else last
        raise BadImage(f"not a readable image (its content is not {words})") from error
    except (
        ArithmeticError,
        EOFError,
        LookupError,
        MemoryError,
        OSError,
        RuntimeError,
        SyntaxError,
        TypeError,
        ValueError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise BadImage(f"not a readable image ({error})") from error


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
    floats are taken as 0..1. The content must be PNG, JPEG, BMP, WEBP or TIFF, whatever the name
    says, of at most `MOST_PIXELS` pixels.

    Raises BadImage (a ValueError) naming the file when it is not an image, is cut short, too large,
    or holds NaN; FileNotFoundError when there is none.
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
        with open_image(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            plain = _eight_bits(image, "L" if channels == 1 else "RGB")
            plain = plain if box is None else plain.crop(_clip_box(box, plain.size))
    except BadImage as error:
        reason = str(error).replace(f"'{path}'", "it").replace(str(path), "it")
        raise BadImage(f"{path}: {reason}") from error
    if plain.size != (width, height):
        plain = plain.resize((width, height), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(plain, np.uint8))
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def _clip_box(box: tuple[float, ...], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of the box that lies in an image of this size."""
    left, top = max(0, round(box[0])), max(0, round(box[1]))
    right, bottom = min(size[0], round(box[0] + box[2])), min(size[1], round(box[1] + box[3]))
    if right <= left or bottom <= top:
        raise BadImage(f"the box {box} lies outside of the image of {size[0]} x {size[1]} pixels")
    return left, top, right, bottom


def _eight_bits(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """The image in 8 bits per channel, nothing clipped, transparency laid on white."""
    if image.mode == "F":
        _check_floats(np.asarray(image))
    plain = Image.new(mode, image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        plain.paste(_strip_in_eight_bits(strip).convert(mode), (0, top))
    return plain


def _strip_in_eight_bits(strip: Image.Image) -> Image.Image:
    """A part of an image in a mode that `convert` handles without clipping."""
    if strip.mode in _DEEP_MODES:
        top = _DEEP_MODES[strip.mode]
        values = np.asarray(strip, np.float64).clip(0, top)
        return Image.fromarray((values * (255 / top)).round().astype(np.uint8))
    if strip.mode in ("RGBA", "LA", "PA") or "transparency" in strip.info:
        drawn = strip.convert("RGBA")
        paper = Image.new("RGBA", drawn.size, "white")
        return Image.alpha_composite(paper, drawn)
    return strip


def _check_floats(values: np.ndarray) -> None:
    """Raises BadImage unless all pixels are finite and lie in 0..1."""
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise BadImage(f"{bad} of {values.size} pixels are NaN or infinite")
    if values.min() < 0 or values.max() > 1:
        raise BadImage(
            f"floating point pixels must lie in 0..1, got {values.min():g}..{values.max():g}"
        )

"""Characters to pictures: outlines from font files, then random affine and stroke variation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFont
from torch import Tensor

CANVAS, BOX, SIDE = 64, 44, 28
LARGEST_ENLARGEMENT = 2.0
BLOT = 0.45
"""Share of the box under ink above which strokes are not widened."""
ALIKE = 0.94
"""Correlation of two blurred renderings in the same face above which they count as one class."""


def outlines(
    characters: Mapping[str, Sequence[str]], folder: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every character in every face that has it, without blank and missing-glyph pictures.

    Returns pictures uint8 (R, 64, 64) with ink 255, fitted into a box of 44 pixels and centred,
    the number of the character of each, and the number of the face (order of first appearance).
    """
    names = list(dict.fromkeys(face for faces in characters.values() for face in faces))
    basic = ImageFont.Layout.BASIC
    fonts = {n: ImageFont.truetype(folder / n, CANVAS, layout_engine=basic) for n in names}
    absent = {n: _picture(font, "\uffff") for n, font in fonts.items()}
    pictures, owner, face = [], [], []
    for i, (character, faces) in enumerate(characters.items()):
        for name in faces:
            picture = _picture(fonts[name], character)
            missing = absent[name]
            if picture is None or (missing is not None and np.array_equal(picture, missing)):
                continue
            pictures.append(picture)
            owner.append(i)
            face.append(names.index(name))
    return np.stack(pictures), np.array(owner), np.array(face)


def _picture(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray | None:
    mask = font.getmask(character, mode="L")
    width, height = mask.size
    if not width or not height:
        return None
    drawn = Image.frombytes("L", (width, height), bytes(mask))
    bounds = drawn.getbbox()
    if bounds is None:
        return None
    drawn = drawn.crop(bounds)
    scale = min(BOX / max(drawn.size), LARGEST_ENLARGEMENT)
    size = (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale)))
    drawn = drawn.resize(size, Image.Resampling.LANCZOS)
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(drawn, ((CANVAS - size[0]) // 2, (CANVAS - size[1]) // 2))
    return np.asarray(canvas)


def distinct_characters(
    pictures: np.ndarray, owner: np.ndarray, face: np.ndarray, compared: int, n: int
) -> np.ndarray:
    """Which of `n` characters to keep, bool: of several that look alike in a face, the first.

    Looks are compared by the correlation of blurred pictures, in each of the first `compared`
    faces (and, for a character that has none of them, in the first face it has).
    """
    keep = np.zeros(n, bool)
    keep[owner] = True
    first = np.unique(owner, return_index=True)[1]
    base = np.isin(np.arange(len(owner)), first) | (face < compared)
    alike: list[tuple[int, int]] = []
    for f in np.unique(face):
        rows = np.flatnonzero(base & (face == f))
        alike += _alike_pairs(torch.from_numpy(pictures[rows]), owner[rows])
    for earlier, later in sorted(alike, key=lambda pair: (pair[1], pair[0])):
        if keep[earlier]:
            keep[later] = False
    return keep


def _alike_pairs(pictures: Tensor, owner: np.ndarray) -> list[tuple[int, int]]:
    look = F.avg_pool2d(pictures.unsqueeze(1).float(), 2)
    look = _smoothed(_smoothed(look / 255)).flatten(1)
    look = F.normalize(look - look.mean(1, keepdim=True), dim=1)
    pairs = []
    for start in range(0, len(look), 1024):
        close = (look[start : start + 1024] @ look.T > ALIKE).nonzero() + torch.tensor(
            [start, 0], device="cpu"
        )
        pairs += [(int(owner[i]), int(owner[j])) for i, j in close.tolist() if owner[i] < owner[j]]
    return pairs


def variants(
    pictures: Tensor, chosen: Tensor, generator: torch.Generator, chunk: int = 4096
) -> Tensor:
    """uint8 (B, 28, 28): picture `chosen[b]` with a random pen, slant, turn, size and place.

    `pictures` is uint8 (R, 64, 64), `chosen` int64 (B,).
    """
    out = torch.empty(len(chosen), SIDE, SIDE, dtype=torch.uint8, device="cpu")
    for start in range(0, len(chosen), chunk):
        rows = chosen[start : start + chunk]
        ink = _stroked(pictures.index_select(0, rows).unsqueeze(1), generator)
        grid = _grid(len(rows), generator)
        bent = F.grid_sample(ink, grid, align_corners=False)
        bent = bent / bent.amax((2, 3), keepdim=True).clamp_min(0.25)
        out[start : start + chunk] = bent.squeeze(1).mul_(255).round_().clamp_(0, 255).byte()
    return out


def _stroked(ink: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 (B, 1, 64, 64) to floats (B, 1, 32, 32), drawn with a random pen, half of them soft.

    Pens: thinner, as it is, thicker, much thicker. What would lose half its ink is not thinned,
    what would become a blot is not thickened.
    """
    pen = torch.randint(0, 4, (len(ink),), generator=generator, device="cpu")
    soft = torch.rand(len(ink), 1, 1, 1, generator=generator, device="cpu") < 0.5
    thinned = (pen == 0).nonzero().squeeze(1)
    before = ink[thinned]
    thin = 255 - _thicker(255 - before)
    robust = thin.sum((1, 2, 3)) >= 0.5 * before.sum((1, 2, 3))
    out = ink.clone()
    out[thinned[robust]] = thin[robust]
    for least in (2, 3):
        thickened = (pen >= least).nonzero().squeeze(1)
        thick = _thicker(out[thickened])
        clear = thick.sum((1, 2, 3)) <= 255 * BLOT * BOX**2
        out[thickened[clear]] = thick[clear]
    small = F.avg_pool2d(out.float(), 2) / 255
    return torch.where(soft, _smoothed(small), small)


def _thicker(ink: Tensor) -> Tensor:
    """The largest of the 3x3 pixels around each, which widens strokes by a pixel on both sides."""
    padded = F.pad(ink, (1, 1, 1, 1))
    wide = torch.maximum(torch.maximum(padded[..., :-2], padded[..., 1:-1]), padded[..., 2:])
    return torch.maximum(torch.maximum(wide[..., :-2, :], wide[..., 1:-1, :]), wide[..., 2:, :])


def _smoothed(images: Tensor) -> Tensor:
    """The binomial mean (1/4, 1/2, 1/4) along both axes."""
    padded = F.pad(images, (1, 1, 1, 1))
    across = (padded[..., :-2] + padded[..., 2:]) / 4 + padded[..., 1:-1] / 2
    return (across[..., :-2, :] + across[..., 2:, :]) / 4 + across[..., 1:-1, :] / 2


def _grid(n: int, generator: torch.Generator) -> Tensor:
    """Sampling places (n, 28, 28, 2): a random affine map and a slow random wobble."""

    def spread(reach: float) -> Tensor:
        return (torch.rand(n, generator=generator, device="cpu") * 2 - 1) * reach

    angle, shear = spread(math.radians(12)), spread(0.25)
    width, height = torch.exp(spread(0.18)), torch.exp(spread(0.18))
    cos, sin = angle.cos(), angle.sin()
    linear = torch.stack(
        [
            torch.stack([cos / width, (shear * cos - sin) / width], 1),
            torch.stack([sin / height, (shear * sin + cos) / height], 1),
        ],
        1,
    )
    move = torch.stack([spread(0.12), spread(0.12)], 1)
    grid = F.affine_grid(
        torch.cat([linear * 0.9, move.unsqueeze(2)], 2), [n, 1, SIDE, SIDE], align_corners=False
    )
    knots = torch.randn(n, 2, 4, 4, generator=generator, device="cpu") * 0.05
    wobble = F.interpolate(knots, size=(SIDE, SIDE), mode="bicubic", align_corners=True)
    return grid + wobble.permute(0, 2, 3, 1)

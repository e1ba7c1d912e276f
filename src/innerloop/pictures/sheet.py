"""The contact sheet: query pictures grouped by the class they were taken for."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from ..data.images.files import open_image, read_image

TILE, GAP, EDGE, CAPTION, BAND = 112, 12, 24, 34, 34
ACROSS = 8
MOST = 400
INK, MUTED, FRAME, WRONG, RIGHT = "#222222", "#6b6b6b", "#c8c8c8", "#D55E00", "#0072B2"
EXIF_ORIENTATION = 274


@dataclass(frozen=True)
class Prediction:
    """One query: its file, the class it was taken for, that class's probability, and its true class
    where it is known."""

    file: Path
    predicted: str
    probability: float
    true: str | None

    @property
    def right(self) -> bool | None:
        """Whether the prediction is the true class; None where that is unknown."""
        return None if self.true is None else self.predicted == self.true


def contact_sheet(predictions: Sequence[Prediction], classes: Sequence[str], title: str) -> bytes:
    """A PNG of the queries, one section per predicted class, the surest first.

    A blue frame is right, a vermilion one wrong (the true class is written below), grey unknown. At
    most 400 pictures are shown, the least sure of each class left out, and the title says so.
    """
    sections = _sections(predictions, classes)
    shown = sum(len(rows) for _, rows, _ in sections)
    if shown < len(predictions):
        title += f" ({shown} shown)"
    height = EDGE + 30
    for _, rows, _ in sections:
        height += BAND + -(-len(rows) // ACROSS) * (TILE + CAPTION + GAP)
    width = 2 * EDGE + ACROSS * TILE + (ACROSS - 1) * GAP
    sheet = Image.new("RGB", (width, height + EDGE), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((EDGE, EDGE), _cut(title, 20, width - 2 * EDGE), INK, font=_font(20))
    top = EDGE + 38
    for name, rows, count in sections:
        text = f"{name}  ·  {count} " + ("query" if count == 1 else "queries")
        draw.line((EDGE, top + 2, width - EDGE, top + 2), FRAME)
        draw.text((EDGE, top + 8), _cut(text, 15, width - 2 * EDGE), INK, font=_font(15))
        top += BAND
        for i, prediction in enumerate(rows):
            left = EDGE + i % ACROSS * (TILE + GAP)
            _tile(sheet, draw, prediction, left, top + i // ACROSS * (TILE + CAPTION + GAP))
        top += -(-len(rows) // ACROSS) * (TILE + CAPTION + GAP)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _sections(
    predictions: Sequence[Prediction], classes: Sequence[str]
) -> list[tuple[str, list[Prediction], int]]:
    """(class, the pictures shown, how many there are) for every class something was taken for."""
    found = []
    used = {prediction.predicted for prediction in predictions}
    quota = max(ACROSS, MOST // max(1, len(used)) // ACROSS * ACROSS)
    if len(predictions) <= MOST:
        quota = MOST
    for name in classes:
        rows = [prediction for prediction in predictions if prediction.predicted == name]
        rows.sort(key=lambda prediction: -prediction.probability)
        if rows:
            found.append((name, rows[:quota], len(rows)))
    return found


def _tile(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, prediction: Prediction, left: int, top: int
) -> None:
    picture = _thumbnail(prediction.file)
    x = left + (TILE - picture.width) // 2
    y = top + (TILE - picture.height) // 2
    sheet.paste(picture, (x, y))
    colour = {True: RIGHT, False: WRONG, None: FRAME}[prediction.right]
    draw.rectangle((left, top, left + TILE - 1, top + TILE - 1), outline=colour, width=3)
    draw.text((left, top + TILE + 3), f"{100 * prediction.probability:.0f} %", INK, font=_font(11))
    name = _cut(prediction.file.name, 10, TILE - 36)
    draw.text((left + TILE, top + TILE + 4), name, MUTED, font=_font(10), anchor="ra")
    if prediction.right is False:
        text = _cut(f"is {prediction.true}", 11, TILE)
        draw.text((left, top + TILE + 17), text, WRONG, font=_font(11))


def _thumbnail(path: Path) -> Image.Image:
    """The picture with its own proportions, at most TILE - 8 pixels wide and high."""
    with open_image(path) as opened:
        width, height = opened.size
        if opened.getexif().get(EXIF_ORIENTATION, 1) >= 5:  # turned by a quarter
            width, height = height, width
    scale = (TILE - 8) / max(width, height)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return Image.fromarray(read_image(path, size, 3).permute(1, 2, 0).numpy())


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size
    )


def _cut(text: str, size: int, room: int) -> str:
    """The text, shortened with an ellipsis until it fits into `room` pixels."""
    if _font(size).getlength(text) <= room:
        return text
    while text and _font(size).getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"

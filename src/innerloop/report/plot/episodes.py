"""Sample episodes: the support images of each class, and its queries marked right or wrong."""

from __future__ import annotations

import string
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from ...core.types import Batch, Task
from .style import BLUE, INK, MUTED, VERMILION, figure, styled

MOST_CLASSES, MOST_SHOTS, MOST_QUERIES = 10, 5, 8
PITCH = 1.16  # distance of image centres, in images
TAG, GAP = 0.75, 0.45  # room for the class letter; between support and queries


@styled
def episodes(tasks: Task, outputs: Tensor, *, across: int = 2) -> Figure:
    """One block per task, `across` blocks in a row: a row per class, its support, its queries.

    `outputs` are the query outputs after adaptation, (T, n, classes). A right query has a blue
    frame; a wrong one a vermilion frame and the letter of the class it was taken for. Images are
    (C, H, W) with one or three channels; of other counts the mean is shown. At most 10 classes,
    5 shots and 8 queries of each are drawn.

    Raises: ValueError if the inputs are not images or the outputs not those of the queries.
    """
    _check(tasks, outputs)
    predicted = outputs.argmax(2).cpu().numpy()
    count = predicted.shape[0]
    across = min(across, count)
    down = -(-count // across)
    shots, queries = (_most_per_class(part) for part in tasks)
    shots, queries = min(shots, MOST_SHOTS), min(queries, MOST_QUERIES)
    present = int(max(part.y.max() for part in tasks)) + 1
    classes = min(present, MOST_CLASSES)
    width, height = TAG + (shots + queries) * PITCH + GAP, classes * PITCH + 0.5
    inch = min(0.6, 9.6 / (across * width), 11.0 / (down * height))
    drawn = figure(across * (width * inch + 0.3), down * (height * inch + 0.45))
    for t in range(count):
        axes = drawn.add_subplot(down, across, t + 1)
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.set_aspect("equal")
        axes.axis("off")
        _draw(axes, tasks, t, predicted[t], present, shots, queries)
    return drawn


def letters(count: int) -> list[str]:
    """A, B, ..., Z, A1, B1, ...: short names for the classes of a task."""
    alphabet = string.ascii_uppercase
    return [alphabet[i % 26] + (str(i // 26) if i >= 26 else "") for i in range(count)]


def _draw(
    axes: Axes, tasks: Task, t: int, predicted: np.ndarray, present: int, shots: int, queries: int
) -> None:
    support, query = tasks
    # A model with more outputs than the tasks have classes may answer with any of them.
    names = letters(max(present, int(predicted.max()) + 1))
    y = query.y[t].cpu().numpy()
    show = _display(tasks, t)
    for k in range(min(present, MOST_CLASSES)):
        top = 0.5 + k * PITCH
        axes.text(0.32, top + 0.5, names[k], ha="center", va="center", fontsize=11, color=INK)
        for i, row in enumerate(np.flatnonzero(support.y[t].cpu().numpy() == k)[:shots]):
            _image(axes, show(support, int(row)), TAG + i * PITCH, top, MUTED, 0.7)
        start = TAG + shots * PITCH + GAP
        for i, row in enumerate(np.flatnonzero(y == k)[:queries]):
            right = predicted[row] == k
            left = start + i * PITCH
            colour, line = (BLUE, 1.5) if right else (VERMILION, 2.2)
            _image(axes, show(query, int(row)), left, top, colour, line)
            if not right:
                box = {"boxstyle": "square,pad=0.15", "facecolor": VERMILION, "edgecolor": "none"}
                axes.text(
                    left + 0.97, top + 0.97, names[predicted[row]], ha="right", va="bottom",
                    fontsize=8, color="white", fontweight="bold", bbox=box,
                )  # fmt: skip
    axes.text(TAG, 0.3, "support", fontsize=9, color=MUTED, va="center")
    axes.text(start, 0.3, "queries", fontsize=9, color=MUTED, va="center")
    cut = f", {MOST_CLASSES} of {present} classes shown" if present > MOST_CLASSES else ""
    axes.set_title(f"{int((predicted == y).sum())} of {len(y)} right{cut}")


def _image(
    axes: Axes, picture: np.ndarray, left: float, top: float, colour: str, line: float
) -> None:
    axes.imshow(
        picture,
        extent=(left, left + 1, top + 1, top),
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        zorder=1,
    )
    axes.add_patch(
        Rectangle((left, top), 1, 1, fill=False, edgecolor=colour, linewidth=line, zorder=2)
    )


def _display(tasks: Task, t: int) -> Callable[[Batch, int], np.ndarray]:
    """A function from (batch, row) to an (H, W) or (H, W, 3) picture in [0, 1]."""
    images = tasks.support.x[t].float()
    low, high = min(float(images.min()), 0.0), max(float(images.max()), 1.0)
    # Light strokes on black print badly: show a grey episode that is mostly dark as its negative.
    negative = images.shape[1] != 3 and float(images.median()) < (low + high) / 2

    def show(batch: Batch, row: int) -> np.ndarray:
        image = ((batch.x[t, row].float().cpu() - low) / (high - low)).clamp(0, 1).numpy()
        if image.shape[0] == 3:
            return np.moveaxis(image, 0, 2)
        picture = image.mean(0)
        return 1 - picture if negative else picture

    return show


def _most_per_class(part: Batch) -> int:
    y = part.y.cpu()
    return max(int(row.bincount().max()) for row in y)


def _check(tasks: Task, outputs: Tensor) -> None:
    if tasks.query.x.ndim != 5:
        raise ValueError(
            "Episodes are drawn for images: expected x of shape (T, n, C, H, W), "
            f"got {tuple(tasks.query.x.shape)}."
        )
    if outputs.ndim != 3 or outputs.shape[:2] != tasks.query.y.shape:
        raise ValueError(
            f"outputs must be (T, n, classes) for queries {tuple(tasks.query.y.shape)}, "
            f"got {tuple(outputs.shape)}."
        )

"""One look for all figures: colours that colour-blind readers can tell apart.

The rest of it stands in house.mplstyle, and holds while a function under `@styled` draws: what a
program of its own has set in matplotlib is the same before and after.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ...core.files import write_bytes

# Okabe and Ito, "Color Universal Design" (2008): distinct under the common colour deficiencies.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY = "#CC79A7", "#56B4E9"
CYCLE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
INK, MUTED, FAINT = "#222222", "#6b6b6b", "#dcdcdc"
HALF = 4.7
"""Width in inches of a figure that leaves room for another beside it."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))


styled = matplotlib.rc_context(
    matplotlib.rc_params_from_file(
        Path(__file__).with_name("house.mplstyle"), use_default_template=False
    )
)
"""Decorator of everything that draws or writes a figure."""


@styled
def figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches, drawn without pyplot."""
    made = Figure(figsize=(width, height))
    FigureCanvasAgg(made)
    return made


def log_scale(axes: Axes, which: str) -> None:
    """A logarithmic `x` or `y` axis with plain numbers at 1, 2 and 5."""
    if which == "x":
        axes.set_xscale("log")
    else:
        axes.set_yscale("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 200 * low else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


@styled
def to_png(drawn: Figure, dpi: int = 160) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


@styled
def to_svg(drawn: Figure) -> bytes:
    """The figure as an SVG file."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def save(drawn: Figure, path: str | Path, dpi: int = 160) -> Path:
    """Write the figure as .png or .svg, whole or not at all.

    Raises: ValueError for another ending.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".svg"):
        raise ValueError(f"A figure is saved as .png or .svg, got {str(path)!r}.")
    return write_bytes(path, to_svg(drawn) if suffix == ".svg" else to_png(drawn, dpi))

"""One look for all figures: colours that colour-blind readers can tell apart, no global state."""

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


def figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches, drawn without pyplot."""
    made = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(made)
    return made


def panel(owner: Figure, rows: int = 1, columns: int = 1, index: int = 1, **options: Any) -> Axes:
    """Axes in the house style: two spines, a faint grid, small text."""
    axes = owner.add_subplot(rows, columns, index, **options)
    return plain(axes)


def plain(axes: Axes) -> Axes:
    """Put existing axes into the house style."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.grid(True, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=3, width=0.7)
    axes.xaxis.label.set_fontsize(10)
    axes.yaxis.label.set_fontsize(10)
    return axes


def heading(axes: Axes, text: str) -> None:
    """A left-aligned panel title."""
    axes.set_title(text, loc="left", fontsize=10.5, color=INK, pad=8)


def legend(axes: Axes, **options: Any) -> None:
    """A legend without a frame."""
    axes.legend(**{"frameon": False, "fontsize": 9, "labelcolor": INK, **options})


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


def to_png(drawn: Figure, dpi: int = 160) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def to_svg(drawn: Figure) -> bytes:
    """The figure as an SVG file; text becomes outlines, so that it looks the same everywhere."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "innerloop"}):
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

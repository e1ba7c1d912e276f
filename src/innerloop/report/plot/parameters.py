"""Pictures of parameter space: MAML's plane, and what changes in which layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...evaluate.diagnose import LayerChange, Plane
from .style import BLUE, CYCLE, HALF, INK, MUTED, figure, styled


@styled
def parameter_plane(plane: Plane) -> Figure:
    """theta, the adaptation path of each task, and each task's optimum, projected on a plane.

    A colour is a task: the line with dots is phi_0 ... phi_S, the star its optimum, the dotted line
    joins the two.
    """
    drawn = figure(HALF, 4.2)
    axes = drawn.add_subplot()
    tasks = plane.optima.shape[0]
    for i in range(tasks):
        colour = CYCLE[i % len(CYCLE)]
        path, end = plane.paths[:, i], plane.optima[i]
        gap = np.stack([path[-1], end])
        axes.plot(*gap.T, color=colour, linewidth=0.9, linestyle=(0, (1, 2)), zorder=2)
        axes.plot(*path.T, color=colour, linewidth=1.8, zorder=3)
        axes.plot(*path[1:].T, "o", color=colour, markersize=3.5, zorder=4)
        axes.plot(*end, "*", color=colour, markersize=13, markeredgecolor="white", zorder=5)
    axes.plot(0, 0, "D", color=INK, markersize=7, markeredgecolor="white", zorder=6)
    axes.annotate(
        "θ",
        (0, 0),
        xytext=tuple(13 * _free_direction(plane)),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=13,
        color=INK,
    )
    keys = [
        Line2D([], [], color=INK, marker="D", ls="", ms=6, label="meta-parameters θ"),
        Line2D([], [], color=MUTED, marker="o", ms=3.5, lw=1.8, label="φ after each inner step"),
        Line2D([], [], color=MUTED, marker="*", ls="", ms=11, label="optimum of the task"),
    ]
    drawn.legend(
        handles=keys,
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        columnspacing=1,
        handletextpad=0.5,
    )
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.08)
    axes.set_xlabel("first principal direction")
    axes.set_ylabel("second principal direction")
    return drawn


def _free_direction(plane: Plane) -> np.ndarray:
    """The unit vector from theta into the widest sector without a path."""
    ends = np.concatenate([plane.paths[min(1, len(plane.paths) - 1)], plane.optima])
    angles = np.sort(np.arctan2(ends[:, 1], ends[:, 0]))
    gaps = np.diff(np.append(angles, angles[0] + 2 * np.pi))
    widest = int(gaps.argmax())
    middle = angles[widest] + gaps[widest] / 2
    return np.array([np.cos(middle), np.sin(middle)])


@styled
def layer_changes(changes: Sequence[LayerChange]) -> Figure:
    """The relative change of each layer after the last step, as bars in the order of the model."""
    shown = [change for change in changes if np.isfinite(change.change[-1])]
    drawn = figure(HALF, 0.9 + 0.3 * max(len(shown), 1))
    axes = drawn.add_subplot()
    values = [float(change.change[-1]) for change in shown]
    axes.barh([change.layer for change in shown], values, color=BLUE, height=0.62)
    for i, value in enumerate(values):
        axes.text(value, i, f" {value:.2g}", va="center", fontsize=8.5, color=MUTED)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.margins(x=0.12)
    axes.set_xlabel("relative change |φ - θ| / |θ|")
    return drawn

"""Fitted curves of one-dimensional regression tasks, before and after adaptation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...core.types import Batch, Task, to
from ...evaluate.run import Evaluable, device_of
from .style import BLUE, FAINT, GREEN, INK, MUTED, ORANGE, VERMILION, figure, styled

STEP_COLOURS = (ORANGE, GREEN, BLUE, VERMILION)
POINTS = 200


@styled
def fitted_curves(
    method: Evaluable,
    tasks: Task,
    *,
    steps: Sequence[int] = (1, 5, 10),
    truth: Batch | None = None,
) -> Figure:
    """The function the model computes, before and after `steps` inner steps, one panel per task.

    `tasks` are stacked tasks with one-dimensional x and y. Dots are the support points; the grey
    band joins the noise-free points of `truth` (T, m, 1); without it, rings mark the queries.

    Raises: ValueError if x or y is not one-dimensional.
    """
    if tasks.query.x.shape[2:] != (1,) or tasks.query.y.shape[2:] != (1,):
        raise ValueError(
            "Fitted curves are drawn for x and y of shape (T, n, 1), got "
            f"{tuple(tasks.query.x.shape)} and {tuple(tasks.query.y.shape)}."
        )
    grid, curves = _curves(method, tasks, max(steps))
    count = curves.shape[1]
    drawn = figure(min(3.1 * count, 9.6), 3.3)
    first: Axes | None = None
    for t in range(count):
        axes = drawn.add_subplot(1, count, t + 1, sharey=first)
        first = first or axes
        _draw_target(axes, tasks.query if truth is None else truth, t, joined=truth is not None)
        axes.plot(
            grid, curves[0, t], color=MUTED, lw=1.4, ls=(0, (1, 1.2)), label="before adaptation"
        )
        for colour, step in zip(STEP_COLOURS, steps, strict=False):
            name = f"after {step} step" + ("s" if step != 1 else "")
            axes.plot(grid, curves[step, t], color=colour, lw=1.7, label=name)
        axes.plot(*_points(tasks.support, t), "o", color=INK, ms=5, zorder=5, label="support")
        axes.set_title(f"task {t + 1}")
        axes.set_xlabel("x")
        if t:
            axes.tick_params(labelleft=False)
    assert first is not None
    handles, labels = first.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=3)
    return drawn


def _curves(method: Evaluable, tasks: Task, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The grid (POINTS,) and the outputs on it, (steps + 1, T, POINTS)."""
    x = torch.cat([tasks.support.x, tasks.query.x], 1)
    grid = torch.linspace(float(x.min()), float(x.max()), POINTS, dtype=x.dtype)
    on_grid = grid.to(x.device).view(1, -1, 1).expand(x.shape[0], -1, 1)
    query = Batch(on_grid, torch.zeros_like(on_grid))
    outputs = method.query_outputs(to(Task(tasks.support, query), device_of(method)), steps)
    return grid.numpy(), outputs[..., 0].detach().cpu().numpy()


def _points(part: Batch, t: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = part.x[t].flatten(), part.y[t].flatten()
    order = x.argsort()
    return x[order].cpu().numpy(), y[order].cpu().numpy()


def _draw_target(axes: Axes, part: Batch, t: int, *, joined: bool) -> None:
    if joined:
        axes.plot(*_points(part, t), color=FAINT, lw=5, zorder=1, label="true function")
    else:
        axes.plot(*_points(part, t), "o", mfc="none", mec=MUTED, ms=4.5, label="queries")

"""The pictures of a report, drawn from a method and tasks it has never seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..core import streams
from ..core.types import Batch, Task, concat, to
from ..data.source import Source
from ..evaluate import diagnose
from ..evaluate.result import EvaluationResult
from ..evaluate.run import device_of
from ..method import Method
from . import plot
from .page import Picture

EPISODES, CURVES, PATHS = 4, 3, 5
"""Number of tasks in the pictures of episodes, fitted curves and parameter space."""

PATH_STEPS = 10
SAMPLE_POINTS = 100
RASTER_DPI = 192


@runtime_checkable
class WithCurves(Protocol):
    """A source of one-dimensional regression tasks that can say what the true functions are."""

    def sample_with_curves(
        self, generator: torch.Generator, n: int
    ) -> tuple[Task, Callable[[Tensor], Tensor]]:
        """Tasks as from `sample`, and the functions of x (T, n, 1) behind them."""
        ...


def curves(records: Sequence[Mapping[str, object]]) -> Picture:
    """Learning curves of the run."""
    return _vector(
        "Learning curves",
        plot.learning_curves(records),
        "Training and validation over the outer steps. Thin: as logged; thick: running median.",
    )


def scores(results: Mapping[str, EvaluationResult], trained_steps: int | None) -> list[Picture]:
    """The score against inner steps for all results, and the spread of the first over tasks."""
    first = next(iter(results.values()))
    return [
        _vector(
            "Score against inner steps",
            plot.score_by_step(results, trained_steps=trained_steps),
            f"Mean over {first.tasks} test tasks after each inner step; bands are 95 % intervals.",
        ),
        _vector(
            "Spread over tasks",
            plot.score_histogram(first),
            f"How the {first.tasks} test tasks are spread, before adaptation and after "
            f"{first.steps} steps.",
        ),
    ]


def samples(method: Method, source: Source, result: EvaluationResult) -> list[Picture]:
    """What the method does on single test tasks: episodes with predictions, or fitted curves."""
    if source.spec.kind == "classification" and len(source.spec.x_shape) == 3:
        tasks = _tasks(method, source, result, EPISODES)
        outputs = method.query_outputs(tasks, result.steps)[-1]
        return [
            _raster(
                "Sample episodes",
                plot.episodes(tasks, outputs),
                f"The first {EPISODES} test tasks, one class per row. Blue frame: right after "
                f"{result.steps} steps; vermilion: wrong, with the letter of the class it was "
                "taken for. Dark grey-level images are shown as negatives.",
            )
        ]
    if (
        source.spec.kind == "regression"
        and source.spec.x_shape == (1,)
        and source.spec.outputs == 1
    ):
        tasks, truth = _with_truth(method, source, result, CURVES)
        return [
            _vector(
                "Fitted curves",
                plot.fitted_curves(method, tasks, truth=truth),
                f"The function the model computes on the first {CURVES} test tasks, before and "
                "after adaptation to the support points.",
            )
        ]
    return []


def parameters(method: Method, source: Source, result: EvaluationResult) -> list[Picture]:
    """Parameter space: the plane of theta, phi and the optima; and which layers move."""
    tasks, truth = _with_truth(method, source, result, PATHS)
    if len(method.trajectory(tasks.support, 1)) < 2:
        return []  # a learner without steps has no path
    steps = min(PATH_STEPS, max(1, result.steps))
    known = truth or concat([tasks.support, tasks.query], axis=1)
    try:
        plane = diagnose.parameter_plane(method, tasks.support, known, steps)
    except ValueError:  # the inner loop diverges on all tasks
        return []
    sample = "100 noise-free points" if truth else "support and query together"
    changes = diagnose.layer_changes(method, tasks.support, steps)
    left_out = f" Left out: {plane.diverged} that diverged." if plane.diverged else ""
    return [
        _vector(
            "Parameter space",
            plot.parameter_plane(plane),
            f"Each colour is a test task: its path over {steps} inner steps from the "
            f"meta-parameters θ, and its optimum (star: {plane.long_steps} steps on {sample}). "
            f"Projected on the plane that shows most; it holds {100 * plane.share:.0f} % of the "
            f"squared displacements.{left_out}",
        ),
        _vector(
            "What adaptation changes",
            plot.layer_changes(changes),
            f"How far each adapted layer moves in {steps} steps, relative to its size; mean over "
            f"{PATHS} test tasks. Near zero everywhere but in the head: the features are reused.",
        ),
    ]


def _tasks(method: Method, source: Source, result: EvaluationResult, count: int) -> Task:
    """The first tasks that the result was measured on."""
    drawn = [
        source.sample(streams.generator(result.seed, result.stream, i), 1) for i in range(count)
    ]
    return to(concat(drawn), device_of(method))


def _with_truth(
    method: Method, source: Source, result: EvaluationResult, count: int
) -> tuple[Task, Batch | None]:
    """The same tasks, and points of the true functions where the source knows them."""
    if not isinstance(source, WithCurves):
        return _tasks(method, source, result, count), None
    tasks, points = [], []
    for i in range(count):
        task, truth = source.sample_with_curves(streams.generator(result.seed, result.stream, i), 1)
        both = torch.cat([task.support.x, task.query.x], 1)
        x = torch.linspace(float(both.min()), float(both.max()), SAMPLE_POINTS).to(both)
        x = x.view(1, -1, 1)
        tasks.append(task)
        points.append(Task(Batch(x, truth(x)), Batch(x, truth(x))))
    device = device_of(method)
    return to(concat(tasks), device), to(concat(points), device).query


def _vector(title: str, drawn: Figure, caption: str) -> Picture:
    return Picture(title, plot.to_svg(drawn), "svg+xml", caption, _width(drawn))


def _raster(title: str, drawn: Figure, caption: str) -> Picture:
    return Picture(title, plot.to_png(drawn, RASTER_DPI), "png", caption, _width(drawn))


def _width(drawn: Figure) -> int:
    return round(96 * float(drawn.get_figwidth()))

"""The figures show the numbers they were given. (How they look was judged by eye.)"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

import innerloop
from innerloop import Batch, Method, Task
from innerloop.data.source import Source
from innerloop.data.values.synthetic import Sine
from innerloop.evaluate import EvaluationResult, LayerChange, Plane
from innerloop.evaluate.run import draw_tasks
from innerloop.models import mlp
from innerloop.report import plot
from innerloop.report.plot.episodes import letters
from innerloop.report.plot.style import BLUE, VERMILION

Make = Callable[..., EvaluationResult]


def test_score_by_step(make_result: Make) -> None:
    maml = make_result([[0.2, 0.3], [0.8, 1.0]])
    proto = make_result([[0.9, 0.9]])
    axes = plot.score_by_step({"maml": maml, "protonet": proto}, trained_steps=1).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["maml"].get_ydata() == pytest.approx([0.25, 0.9])
    assert set(lines["protonet"].get_ydata()) == {0.9}, "a learner without steps is a level"
    low, high = axes.collections[0].get_paths()[0].get_extents().get_points()[:, 1]
    assert low == pytest.approx(0.25 - maml.interval[0])
    assert high == pytest.approx(0.9 + maml.interval[1])


def test_histogram_counts_every_task(make_result: Make) -> None:
    before, after = np.arange(50) % 5 / 5, np.minimum(1.0, np.arange(50) % 6 / 5)
    axes = plot.score_histogram(make_result([before, after])).axes[0]
    heights = [[bar.get_height() for bar in group] for group in axes.containers]
    assert [sum(row) for row in heights] == [50, 50]
    # Five levels fifths apart: one bar each, none shared, and 100 % inside the last one.
    assert [h for h in heights[0] if h] == [10] * 5
    assert heights[1][-1] == (after == 1.0).sum()


def test_histogram_of_errors_spans_orders(make_result: Make) -> None:
    values = np.array([[1e-4, 1e-2, 1.0, np.inf]])
    axes = plot.score_histogram(make_result(values, metric="mse")).axes[0]
    assert axes.get_xscale() == "log"
    assert sum(bar.get_height() for bar in axes.containers[0]) == 3


def test_metrics_of_other_names(make_result: Make) -> None:
    for bigger, values in ((True, [[-0.2, 0.5, 0.9]]), (False, [[2.0, 2.0, 2.0]])):
        result = make_result(values, metric="R2", larger_is_better=bigger)
        axes = plot.score_histogram(result).axes[0]
        assert sum(bar.get_height() for bar in axes.containers[0]) == 3
        assert axes.get_xlabel().startswith("R2 of a task")


def test_names_are_no_markup(make_result: Make) -> None:
    """A run may be called anything: half a formula is drawn as it is."""
    results = {r"$\frac{": make_result([[0.1, 0.2]] * 2), "$x$": make_result([[0.3, 0.2]] * 2)}
    drawn = plot.score_by_step(results)
    assert plot.to_svg(drawn).startswith(b"<?xml")
    assert [t.get_text() for t in drawn.axes[0].get_legend().get_texts()] == list(results)
    assert not any(t.get_parse_math() for t in drawn.axes[0].get_legend().get_texts())


def test_learning_curves_take_both_kinds_of_records() -> None:
    train = [{"event": "train", "step": s, "loss": 1 / s, "accuracy": 0.5} for s in range(1, 200)]
    validation = [{"event": "validation", "step": 100, "accuracy": 0.75, "best_step": 100}]
    flat = [{"step": 150, "validation_accuracy": 0.8}, {"step": 160, "loss": None}]
    loss, accuracy = plot.learning_curves([*train, *validation, *flat]).axes
    curves = {line.get_label(): line for line in accuracy.lines}
    assert list(curves["validation, after adaptation"].get_xdata()) == [100, 150]
    assert list(curves["validation, after adaptation"].get_ydata()) == [0.75, 0.8]
    assert len(loss.lines[0].get_xdata()) == 199, "every logged value, the null left out"
    thick = loss.lines[1].get_ydata()
    assert thick[0] > thick[-1] > 0
    with pytest.raises(ValueError, match="No learning curve to draw"):
        plot.learning_curves([{"step": 1, "lr": 0.1}])


def test_episodes_mark_what_is_wrong(blobs: Source, maml: Method) -> None:
    _, tasks = next(draw_tasks(blobs, 2))
    outputs = torch.nn.functional.one_hot(tasks.query.y, 3).double()
    outputs[0, 0] = torch.tensor([0.0, 0.0, 1.0])  # of class A, taken for C
    first, second = plot.episodes(tasks, outputs).axes
    frames = [to_hex(patch.get_edgecolor()).upper() for patch in first.patches]
    assert (frames.count(VERMILION), frames.count(BLUE)) == (1, 11)
    assert "C" in [t.get_text() for t in first.texts if t.get_bbox_patch() is not None]
    assert first.get_title(loc="left") == "11 of 12 right"
    assert second.get_title(loc="left") == "12 of 12 right"
    assert len(first.images) == 3 + 12


def test_episodes_of_many_classes_and_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(14).repeat_interleave(2)[None]
    x = torch.rand(1, 28, 5, 8, 8, generator=generator)
    task = Task(Batch(x, y), Batch(x, y))
    (axes,) = plot.episodes(task, torch.rand(1, 28, 14, generator=generator)).axes
    assert "10 of 14 classes shown" in axes.get_title(loc="left")
    assert axes.images[0].get_array().shape == (8, 8)
    assert letters(28)[24:] == ["Y", "Z", "A1", "B1"]


def test_episodes_of_fewer_classes_than_the_model_has() -> None:
    y = torch.tensor([[0, 1]])
    task = Task(*[Batch(torch.rand(1, 2, 1, 4, 4), y)] * 2)
    outputs = torch.tensor([[[1.0, 0.0, 0.0, 2.0], [0.0, 1.0, 0.0, 0.0]]])
    (axes,) = plot.episodes(task, outputs).axes
    texts = [t.get_text() for t in axes.texts]
    assert texts.count("A") == texts.count("B") == 1 and "C" not in texts
    assert "D" in texts, "the class that the task does not have, and the model answered with"


def test_episodes_refuse_what_is_no_image(maml: Method) -> None:
    flat = Batch(torch.zeros(1, 2, 36), torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"expected x of shape \(T, n, C, H, W\)"):
        plot.episodes(Task(flat, flat), torch.zeros(1, 2, 3))
    images = Batch(torch.zeros(1, 2, 1, 4, 4), torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="outputs must be"):
        plot.episodes(Task(images, images), torch.zeros(2, 1, 2, 3))


def test_fitted_curves_are_the_model() -> None:
    torch.manual_seed(0)
    method = innerloop.methods.maml(mlp(1, 1, (8,)), lr=0.01, steps=1, loss="mse")
    task, curves = Sine(shot=5, queries=5).sample_with_curves(torch.Generator().manual_seed(0), 2)
    drawn = plot.fitted_curves(method, task, truth=Batch(task.query.x, curves(task.query.x)))
    lines = {line.get_label(): line for line in drawn.axes[1].lines}
    x = torch.tensor(lines["after 5 steps"].get_xdata())[:, None]
    adapted = method.adapt(task.support.x[1], task.support.y[1], steps=5)
    assert lines["after 5 steps"].get_ydata() == pytest.approx(
        adapted(x).detach().flatten().numpy(), abs=1e-5
    )
    assert sorted(lines["true function"].get_ydata()) == pytest.approx(
        sorted(task.query.y[1].flatten().tolist()), abs=1e-5
    )
    with pytest.raises(ValueError, match=r"of shape \(T, n, 1\)"):
        plot.fitted_curves(method, Task(*(Batch(b.x.expand(-1, -1, 2), b.y) for b in task)))


def test_parameter_figures() -> None:
    plane = Plane(np.zeros((3, 2, 2)), np.array([[1.0, 0.0], [0.0, 1.0]]), 0.9, 100, 0)
    plane.paths[1:] = plane.optima / 2
    axes = plot.parameter_plane(plane).axes[0]
    stars = [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "*"]
    assert stars == [(1.0, 0.0), (0.0, 1.0)]
    (label,) = axes.texts
    assert label.get_text() == "θ" and label.get_position()[0] < 0 > label.get_position()[1]
    changes = [
        LayerChange("body", 3, np.array([0.0, 0.1])),
        LayerChange("context", 3, np.array([0.0, np.nan])),
    ]
    bars = plot.layer_changes(changes).axes[0].containers[0]
    assert [bar.get_width() for bar in bars] == [0.1]


def test_files(make_result: Make, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    drawn = plot.score_histogram(make_result([[0.1, 0.2, 0.2]]))
    with Image.open(plot.save(drawn, tmp_path / "a.png", dpi=100)) as image:
        assert image.size == (470, 330)
    assert plot.save(drawn, tmp_path / "a.svg").read_bytes() == plot.to_svg(drawn)
    with pytest.raises(ValueError, match=r"saved as .png or .svg, got '.*a.jpg'"):
        plot.save(drawn, tmp_path / "a.jpg")
    assert dict(matplotlib.rcParams) == before, "global state was changed"

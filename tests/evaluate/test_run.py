"""Scoring: the right numbers, on the same tasks, whatever the batch."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import innerloop
from innerloop import Batch, Method, Task
from innerloop.core import streams
from innerloop.data.source import Source, Spec
from innerloop.data.values.synthetic import Sine
from innerloop.evaluate import EvaluationResult, evaluate
from innerloop.evaluate.result import half_width, quantile_95
from innerloop.evaluate.run import draw_tasks, score
from innerloop.objective import Query, accuracy

Make = Callable[..., EvaluationResult]


class Constant:
    """A method that gives the same outputs whatever the task."""

    def __init__(self, outputs: Callable[[Task], Tensor], loss: str = "cross_entropy") -> None:
        self.outputs, self.objective = outputs, Query(loss)

    def query_outputs(self, tasks: Task, steps: int | None = None) -> Tensor:
        return self.outputs(tasks)

    def describe(self) -> dict[str, str]:
        return {"method": "constant"}


def test_values_are_those_of_the_method(maml: Method, blobs: Source) -> None:
    result = evaluate(maml, blobs, 7, steps=3, seed=5, batch=4)
    for i in range(7):
        task = blobs.sample(streams.generator(5, "test", i), 1)
        right = (maml.query_outputs(task, 3).argmax(3) == task.query.y).double().mean((1, 2))
        assert np.array_equal(result.values[:, i], right.numpy())
    assert result.values.shape == (4, 7)
    assert (result.steps, result.tasks, result.metric) == (3, 7, "accuracy")
    assert len(np.unique(result.values)) > 2, "the case is too easy to tell anything"
    assert result.method == maml.describe() and result.source == blobs.describe()


def test_batch_size_changes_nothing(maml: Method, blobs: Source) -> None:
    results = [evaluate(maml, blobs, 9, batch=batch) for batch in (1, 4, 9, 100)]
    for other in results[1:]:
        assert np.array_equal(results[0].values, other.values)
        assert results[0].digest == other.digest


def test_seed_and_stream_choose_the_tasks(maml: Method, blobs: Source) -> None:
    first = evaluate(maml, blobs, 5)
    for other in (evaluate(maml, blobs, 5, seed=1), evaluate(maml, blobs, 5, stream="validation")):
        assert other.digest != first.digest


def test_randomness_inside_is_a_function_of_the_seed(blobs: Source) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    method = innerloop.methods.maml(net, lr=0.5, steps=2)
    first = evaluate(method, blobs, 6)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = evaluate(method, blobs, 6)
    assert torch.equal(before, torch.get_rng_state()), "the caller's generator was moved"
    assert np.array_equal(first.values, again.values)


def test_learner_without_steps(blobs: Source) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8)).double()
    result = evaluate(innerloop.methods.protonet(net), blobs, 4, steps=5)
    assert result.values.shape == (1, 4) and result.steps == 0


def test_regression_is_scored_by_squared_error() -> None:
    source = Sine(shot=3, queries=4)
    result = evaluate(Constant(lambda tasks: tasks.query.y[None] + 0.5, "mse"), source, 3)
    assert result.metric == "mse"
    assert np.allclose(result.values, 0.25)


def test_dense_outputs_are_scored_pixel_by_pixel() -> None:
    y = torch.tensor([[[[0, 1], [1, 1]]]])
    outputs = torch.zeros(1, 1, 1, 2, 2, 2)
    outputs[:, :, :, 1] = 1.0  # class 1 everywhere
    assert score(outputs, Batch(y, y), accuracy()).tolist() == [[0.75]]


def test_not_finite_counts_as_wrong(
    blobs: Source, caplog: pytest.LogCaptureFixture, make_result: Make
) -> None:
    def outputs(tasks: Task) -> Tensor:
        good = nn.functional.one_hot(tasks.query.y, 3).double()
        good[0] = torch.nan
        return good[None]

    result = evaluate(Constant(outputs), blobs, 4, batch=2)
    assert result.values.tolist() == [[0.0, 1.0, 0.0, 1.0]]
    assert "2 of 4 tasks are not finite" in caplog.text


def test_warns_below_600_tasks(caplog: pytest.LogCaptureFixture) -> None:
    class Trivial(Source):
        spec = Spec("regression", (1,), 1)

        def sample(self, generator: torch.Generator, n: int) -> Task:
            return Task(*(Batch(torch.zeros(n, 1, 1), torch.zeros(n, 1, 1)) for _ in range(2)))

        def describe(self) -> dict[str, str]:
            return {}

    method = Constant(lambda tasks: tasks.query.y[None], "mse")
    with caplog.at_level(logging.WARNING):
        assert evaluate(method, Trivial()).tasks == 600
        assert not caplog.records
        evaluate(method, Trivial(), 599)
        assert "599 tasks" in caplog.text


def test_progress_is_told(blobs: Source) -> None:
    seen: list[tuple[int, int]] = []
    method = Constant(lambda tasks: nn.functional.one_hot(tasks.query.y, 3).double()[None])
    evaluate(method, blobs, 5, batch=2, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize("bad", [{"tasks": 0}, {"batch": 0}, {"steps": -1}])
def test_refuses_counts_out_of_range(maml: Method, blobs: Source, bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be at least"):
        evaluate(maml, blobs, **{"tasks": 2, **bad})


def test_refuses_outputs_of_another_shape(blobs: Source) -> None:
    with pytest.raises(ValueError, match=r"outputs \(tasks, queries, classes"):
        evaluate(Constant(lambda tasks: torch.zeros(1, 1, 5, 3)), blobs, 1)
    # A (n, 1) target against (n,) outputs would broadcast to (n, n) in silence.
    with pytest.raises(ValueError, match="for targets"):
        outputs = Constant(lambda tasks: tasks.query.y[None, ..., 0], "mse")
        evaluate(outputs, Sine(shot=2, queries=2), 1)


def test_draw_tasks_are_the_same_in_any_stack(blobs: Source) -> None:
    one = [task for _, task in draw_tasks(blobs, 5, batch=1)]
    firsts, stacks = zip(*draw_tasks(blobs, 5, batch=3), strict=True)
    assert firsts == (0, 3)
    assert torch.equal(torch.cat([t.query.x for t in one]), torch.cat([t.query.x for t in stacks]))


def test_interval(make_result: Make) -> None:
    result = make_result([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    assert result.mean.tolist() == [0.5, 0.75]
    assert result.interval[0] == pytest.approx(3.182446 * math.sqrt(1 / 3) / 2)
    assert result.interval[1] == pytest.approx(3.182446 * 0.5 / 2)
    assert result.text() == "75.00 ± 79.56 %"
    assert result.tasks_per_second == 2.0
    assert math.isnan(make_result([[1.0]]).interval[0]), "one task says nothing about the spread"


@pytest.mark.parametrize("degrees", [*range(1, 40), 99, 599, 10_000])
def test_quantiles_are_those_of_student(degrees: int) -> None:
    assert quantile_95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-5)


def test_the_interval_covers_the_mean_of_few_values() -> None:
    """95 of 100 intervals from five values hold the true mean; with 1.96, 88 of them would."""
    draws = np.random.default_rng(0).standard_normal((4000, 5))
    covered = np.mean([abs(row.mean()) < half_width(row) for row in draws])
    assert 0.94 < covered < 0.96


def test_files_without_a_direction_are_read(make_result: Make, tmp_path: Path) -> None:
    for metric in ("accuracy", "mse"):
        path = make_result([[0.5, 0.5]], metric=metric).to_json(tmp_path / "result.json")
        content = json.loads(path.read_text())
        del content["larger_is_better"]
        path.write_text(json.dumps(content))
        assert EvaluationResult.from_json(path).larger_is_better == (metric == "accuracy")


def test_json_round_trip(make_result: Make, tmp_path: Path) -> None:
    result = make_result([[0.1, math.nan], [1 / 3, math.inf]], metric="mse")
    path = result.to_json(tmp_path / "deep" / "result.json")
    back = EvaluationResult.from_json(path)
    assert back.values[0, 0] == 0.1 and back.values[1, 0] == 1 / 3
    assert np.isnan(back.values[:, 1]).all()
    for name in (
        "metric",
        "larger_is_better",
        "method",
        "source",
        "seed",
        "stream",
        "batch",
        "device",
        "digest",
    ):
        assert getattr(back, name) == getattr(result, name)

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert content["summary"]["tasks"] == 2 and content["summary"]["mean"] == [None, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "it is not JSON"),
        (lambda text: "[1, 2]", "expected format"),
        (lambda text: text.replace("evaluation-1", "evaluation-9"), "got 'innerloop-evaluation-9'"),
        (lambda text: text.replace('"seed"', '"sed"'), "lacks seed"),
        (lambda text: text.replace('"metric": "accuracy"', '"metric": 3'), "name of a metric"),
    ],
)
def test_refuses_a_foreign_file(
    make_result: Make, tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    path = make_result([[0.5, 0.5]]).to_json(tmp_path / "result.json")
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        EvaluationResult.from_json(path)

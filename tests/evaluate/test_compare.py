"""Paired comparison: narrower than either mean, and only on the same tasks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from innerloop.evaluate import EvaluationResult, compare

Make = Callable[..., EvaluationResult]


def test_a_constant_gain_is_seen_through_hard_and_easy_tasks(make_result: Make) -> None:
    hard = np.linspace(0.1, 0.9, 20)
    gain = 0.02 + 0.001 * np.sin(np.arange(20))
    a, b = make_result([hard + gain]), make_result([hard])
    (row,) = compare({"a": a, "b": b})
    assert row.difference == pytest.approx(gain.mean())
    assert row.interval == pytest.approx(stats.t.ppf(0.975, 19) * gain.std(ddof=1) / np.sqrt(20))
    assert row.interval < a.interval[0] / 50
    assert (row.first, row.second, row.better) == ("a", "b", "first")
    assert (row.wins, row.ties, row.losses) == (20, 0, 0)


def test_for_errors_smaller_is_better(make_result: Make) -> None:
    a = make_result([[1.0, 2.0, 3.0]], metric="mse")
    b = make_result([[1.5, 2.6, 3.0]], metric="mse")
    (row,) = compare({"a": a, "b": b})
    assert row.difference == pytest.approx(-1.1 / 3)
    assert (row.wins, row.ties, row.losses) == (2, 1, 0)
    clear = make_result([[0.0, 0.1, 0.2]], metric="mse")
    (row,) = compare({"a": clear, "b": make_result([[1.0, 1.1, 1.3]], metric="mse")})
    assert row.better == "first"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_diverged_is_said(make_result: Make, bad: float) -> None:
    """One task of four is enough: the mean is not a number, and no verdict hides it."""
    good = make_result([[1.0, 2.0, 3.0, 4.0]], metric="mse")
    wild = make_result([[0.5, 2.0, bad, 5.0]], metric="mse")
    (row,) = compare({"good": good, "wild": wild})
    assert row.better == "second diverged" and np.isnan([row.difference, row.interval]).all()
    assert (row.wins, row.ties, row.losses) == (2, 1, 1), "not finite is worse than anything"
    (row,) = compare({"wild": wild, "good": good})
    assert row.better == "first diverged" and (row.wins, row.losses) == (1, 2)
    (row,) = compare({"a": wild, "b": wild})
    assert row.better == "both diverged" and row.ties == 4
    assert wild.text() == "diverged on 1 of 4 tasks" and good.text().startswith("2.500 ± ")


def test_other_metrics_have_a_direction(make_result: Make) -> None:
    up = [[0.1, 0.2, 0.3]], [[0.5, 0.61, 0.72]]
    low, high = (make_result(v, metric="AUPRC", larger_is_better=True) for v in up)
    (row,) = compare({"low": low, "high": high})
    assert row.better == "second" and row.losses == 3 and high.text().startswith("0.610 ± ")
    low, high = (make_result(v, metric="deviance", larger_is_better=False) for v in up)
    assert compare({"low": low, "high": high})[0].better == "first"


def test_no_difference_is_said(make_result: Make) -> None:
    a, b = make_result([[0.2, 0.8, 0.5, 0.4]]), make_result([[0.8, 0.2, 0.4, 0.5]])
    (row,) = compare({"a": a, "b": b})
    assert row.better == "no difference shown"


def test_all_pairs_or_a_reference(make_result: Make) -> None:
    results = {name: make_result([[0.1, 0.2]]) for name in "abc"}
    assert [(r.first, r.second) for r in compare(results)] == [("a", "b"), ("a", "c"), ("b", "c")]
    rows = compare(results, reference="b")
    assert [(r.first, r.second) for r in rows] == [("a", "b"), ("c", "b")]


def test_step_is_chosen(make_result: Make) -> None:
    a, b = make_result([[0.0, 0.0], [1.0, 1.0]]), make_result([[0.5, 0.5]])
    assert compare({"a": a, "b": b})[0].difference == pytest.approx(0.5), "each at its last step"
    assert compare({"a": a, "b": b}, step=0)[0].difference == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="between 0 and 0 for 'b', got 1"):
        compare({"a": a, "b": b}, step=1)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 3}, "seed (0 and 3)"),
        ({"stream": "validation"}, "stream ('test' and 'validation')"),
        ({"metric": "mse"}, "metric ('accuracy' and 'mse')"),
        ({"source": {"source": "blobs", "queries": "15"}}, "source queries ('4' and '15')"),
        ({"source": {"source": "blobs"}}, "source queries ('4' and None)"),
        ({"digest": "x"}, "the tasks' data"),
    ],
)
def test_refuses_other_tasks_by_name(
    make_result: Make, other: dict[str, object], message: str
) -> None:
    results = {"a": make_result([[0.0, 1.0]]), "b": make_result([[0.0, 1.0]], **other)}
    with pytest.raises(ValueError) as error:
        compare(results)
    assert message in str(error.value)


def test_refuses_another_number_of_tasks(make_result: Make) -> None:
    with pytest.raises(ValueError, match=r"tasks \(2 and 3\)"):
        compare({"a": make_result([[0.0, 1.0]]), "b": make_result([[0.0, 1.0, 1.0]])})


def test_refuses_fewer_than_two(make_result: Make) -> None:
    with pytest.raises(ValueError, match="at least two results, got 1"):
        compare({"a": make_result([[0.0, 1.0]])})
    with pytest.raises(ValueError, match="reference must be one of"):
        compare({k: make_result([[0.0, 1.0]]) for k in "ab"}, reference="c")

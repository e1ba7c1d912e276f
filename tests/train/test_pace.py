"""Estimates of the time that is left."""

from __future__ import annotations

import pytest

from innerloop.train.pace import Pace, in_words


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_step_does_not_count_once_there_is_another() -> None:
    clock = Clock()
    pace = Pace(clock)
    seen = []
    for seconds in (50.0, 2.0, 4.0):
        clock.now += seconds
        seen.append(pace.step())
    assert seen == [50.0, 2.0, 3.0]


def test_reports_come_from_the_first_step_on_once_a_second() -> None:
    clock = Clock()
    pace = Pace(clock)
    due = []
    for _ in range(6):
        clock.now += 0.4
        pace.step()
        due.append(pace.due())
    assert due == [True, False, False, True, False, False]


@pytest.mark.parametrize(("seconds", "at"), [(1.0, 5), (20.0, 2), (31.0, 2)])
def test_a_long_run_says_so_once_and_early(seconds: float, at: int) -> None:
    clock = Clock()
    pace = Pace(clock)
    warned = []
    for step in range(1, 9):
        clock.now += seconds
        pace.step()
        if said := pace.warning(43.2 * 3600):
            warned.append(step)
            assert "about 43 hours" in said and "--train.minutes" in said
    assert warned == [at]


def test_a_short_run_says_nothing() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(9):
        clock.now += 1.0
        pace.step()
        assert pace.warning(3599.0) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(12.4, "12 seconds"), (119, "119 seconds"), (7199, "120 minutes"), (7200, "2 hours"),
     (155_000, "43 hours"), (864_000, "10 days")],
)  # fmt: skip
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words

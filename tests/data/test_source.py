"""Lists of tasks as a source, and what a source says of its examples."""

import pytest
import torch

from innerloop.core.types import Batch, Task, count
from innerloop.data.source import Source, Spec, Splits, TaskList, as_source
from innerloop.data.values.synthetic import Sine


def task(number, shot=2, queries=3, tasks=1, width=4):
    """Classification; every input is the task's number, and its row behind the comma."""

    def batch(n):
        x = number + torch.arange(tasks)[:, None, None] / 8 + torch.zeros(tasks, n, width)
        return Batch(x, torch.arange(n).expand(tasks, n).clone())

    return Task(batch(shot), batch(queries))


def numbers(drawn):
    """The numbers of the tasks drawn, whether they are stacked or not."""
    parts = [drawn] if isinstance(drawn, Task) else drawn
    return [x for part in parts for x in part.support.x[:, 0, 0].tolist()]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_equal_tasks_come_stacked_and_none_twice():
    source = TaskList([task(0), task(1, tasks=3), task(2)])
    assert len(source) == 5
    drawn = source.sample(rng(), 5)
    assert isinstance(drawn, Task) and drawn.support.x.shape == (5, 2, 4)
    assert sorted(numbers(drawn)) == [0, 1, 1.125, 1.25, 2]
    assert drawn.query.y.tolist() == [[0, 1, 2]] * 5
    twice = numbers(source.sample(rng(), 12))
    assert {twice.count(x) for x in set(twice)} == {2, 3} and len(set(twice)) == 5


def test_unequal_tasks_come_as_a_list_of_single_ones():
    source = TaskList([task(0, tasks=2), task(1, shot=5), task(2, queries=1), task(3, width=6)])
    drawn = source.tasks(rng(), 5)
    assert isinstance(drawn, list) and {count(t.support.x) for t in drawn} == {1}
    assert sorted(numbers(drawn)) == [0, 0.125, 1, 2, 3]
    with pytest.raises(ValueError, match=r"cannot be stacked; use tasks"):
        source.sample(rng(), 5)
    one = source.sample(rng(), 1)
    assert isinstance(one, Task) and count(one.query.y) == 1


def test_the_generator_alone_decides():
    source = TaskList([task(k) for k in range(9)])
    first, other = source.sample(rng(1), 6), source.sample(rng(2), 6)
    assert numbers(first) == numbers(source.sample(rng(1), 6)) != numbers(other)
    assert len({tuple(numbers(source.sample(rng(k), 3))) for k in range(20)}) > 15


@pytest.mark.parametrize("source", [TaskList([task(k) for k in range(9)]), Sine(shot=2)])
def test_rows_are_those_of_the_whole_draw(source):
    whole = source.sample(rng(), 7)
    parts = [source.rows(rng(), 7, *bounds) for bounds in ((0, 3), (3, 7))]
    for k in (0, 1):
        assert torch.equal(torch.cat([part[k].x for part in parts]), whole[k].x)
    unequal = TaskList([task(0), task(1, shot=5), task(2)])
    whole = numbers(unequal.tasks(rng(), 6))
    assert numbers(unequal.rows(rng(), 6, 1, 4)) == whole[1:4]


def test_trees_weights_and_dense_labels():
    def batch(n):
        x = {"tokens": torch.zeros(2, n, 7, dtype=torch.int64), "mask": torch.ones(2, n, 7)}
        return Batch(x, torch.full((2, n, 5, 6), 3), torch.ones(2, n))

    source = TaskList([Task(batch(2), batch(4))] * 3)
    drawn = source.sample(rng(), 6)
    assert drawn.support.x["mask"].shape == (6, 2, 7) and drawn.query.weight.shape == (6, 4)
    assert source.spec == Spec("classification", (7,), 4, (5, 6)) and source.spec.dense


def test_what_a_list_says_of_itself():
    source = TaskList([task(0), task(1, shot=5, queries=6)], name="mine")
    assert source.spec == Spec("classification", (4,), 6) and source.spec.y_shape == ()
    assert source.describe() == {
        "source": "mine",
        "tasks": "2",
        "support": "2..5",
        "queries": "3..6",
        "x_shape": "4",
        "outputs": "6",
    }
    given = Spec("classification", (4,), 9)
    assert TaskList([task(0)], spec=given).spec is given
    values = Batch(torch.zeros(1, 3, 2), torch.zeros(1, 3, 5))
    assert TaskList([Task(values, values)]).spec == Spec("regression", (2,), 5, (5,))
    plain = Batch(torch.zeros(1, 3, 2), torch.zeros(1, 3))
    assert TaskList([Task(plain, plain)]).spec == Spec("regression", (2,), 1, ())


def test_tasks_are_moved_once():
    source = TaskList([task(0)], device="meta")
    assert source.sample(rng(), 1).support.x.device.type == "meta"


def test_what_is_a_source_and_what_is_not():
    sine = Sine()
    assert as_source(sine) is sine
    for value in ([task(0), task(1)], (task(0), task(1))):
        made = as_source(value, name="mine")
        assert isinstance(made, Source) and made.describe()["source"] == "mine"
    for value, word in (
        (task(0), r"type \[task\]"),
        (Splits(sine, sine, sine), r"type splits\.train"),
        ([], "a list of innerloop.Task.*got an empty list"),
        (5, r"got int; type \[innerloop\.Task\("),
        ({"a": task(0)}, "got dict"),
        ([task(0), (1, 2)], "task 1: expected innerloop.Task.*got tuple"),
        ([Task((1, 2), (3, 4))], "task 0: expected innerloop.Task"),
    ):
        with pytest.raises(ValueError, match=word):
            as_source(value)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (
            Batch(torch.zeros(2, 4), torch.zeros(2)),
            r"support\.y should be .* \(2,\).*y\[None\]",
        ),
        (Batch(torch.zeros(5), torch.zeros(1, 5)), r"support\.x should be"),
        (Batch(torch.zeros(2, 3, 4), torch.zeros(2, 3)), r"as many tasks.*\[1, 2\]"),
        (Batch(torch.zeros(1, 3, 4), torch.zeros(1, 2)), r"as many examples.*\[2, 3\]"),
        (Batch(torch.zeros(1, 0, 4), torch.zeros(1, 0)), r"one at least, got \[0\]"),
        (Batch(torch.zeros(1, 3, 4), torch.zeros(1, 3), torch.ones(1, 2)), r"examples.*\[2, 3\]"),
        (Batch({}, torch.zeros(1, 3)), r"support\.x holds no tensor"),
        (Batch(torch.zeros(1, 3, 4), None), r"support\.y holds no tensor"),
    ],
)
def test_tasks_that_are_none_are_named(wrong, word):
    with pytest.raises(ValueError, match=rf"task 1: .*{word}"):
        TaskList([task(0), Task(wrong, task(0).query)])


def test_impossible_specs_and_numbers():
    with pytest.raises(ValueError, match="kind must be"):
        Spec("ranking", (1,), 1)
    with pytest.raises(ValueError, match="outputs must be at least 1"):
        Spec("regression", (1,), 0)
    with pytest.raises(ValueError, match=r"must end in outputs = 2, got \(3,\)"):
        Spec("regression", (1,), 2, (3,))
    assert Spec("regression", (1,), 2).y_shape == (2,)
    assert Spec("regression", (1,), 2, (7, 2)).y_shape == (7, 2)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        TaskList([task(0)]).sample(rng(), 0)

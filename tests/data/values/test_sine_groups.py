"""Groups of tasks: bins of an amplitude, and the alphabets that classes come from."""

from __future__ import annotations

import pytest
import torch

from innerloop.data.images.episodes import Episodes
from innerloop.data.pool import ClassPool
from innerloop.data.values.sine_groups import SineGroups, sine_groups
from innerloop.data.values.synthetic import Sine


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pool() -> ClassPool:
    """Groups of 3, 1 and 4 classes with 4 images each; an image holds the number of its class."""
    label = torch.arange(8).repeat_interleave(4)
    return ClassPool(
        images=label.float().reshape(-1, 1, 1, 1).clone(),
        label=label,
        class_names=[f"c{i}" for i in range(8)],
        class_group=torch.tensor([0, 0, 0, 1, 2, 2, 2, 2]),
        group_names=["a", "b", "c"],
    )


def test_amplitudes_lie_in_the_bins_that_are_told() -> None:
    source = SineGroups(shot=200, queries=1, ranges=((0.1, 0.4), (4.0, 4.2)), bin_width=0.1)
    assert source.groups == tuple(
        f"amplitude {low:g}..{low + 0.1:g}" for low in (0.1, 0.2, 0.3, 4.0, 4.1)
    )
    stream = generator()
    group = source.task_groups(stream, 50)
    task = source.sample(stream, 50)
    lows = torch.tensor([0.1, 0.2, 0.3, 4.0, 4.1])[group]
    largest = task.support.y.abs().amax((1, 2))
    assert bool((largest <= lows + 0.1 + 1e-6).all()) and bool((largest >= 0.9 * lows).all())
    assert set(group.tolist()) == set(range(5))


def test_asking_for_the_groups_changes_no_draw() -> None:
    for source in (
        SineGroups(shot=2, queries=2),
        Episodes(pool(), way=2, shot=1, queries=1, within_group=True),
    ):
        asked, silent = generator(3), generator(3)
        first = source.task_groups(asked, 6)
        assert torch.equal(first, source.task_groups(asked, 6))
        a, b = source.sample(asked, 6), source.sample(silent, 6)
        assert torch.equal(a.query.x, b.query.x)


def test_the_published_split() -> None:
    splits = sine_groups(shot=5, queries=5)
    assert len(splits.train.groups) == 100 and len(splits.test.groups) == 490
    assert splits.train.groups[94] == "amplitude 1.04..1.05"
    assert splits.train.groups[-1] == "amplitude 4.99..5"


def test_episodes_name_the_group_of_each_task() -> None:
    source = Episodes(pool(), way=2, shot=1, queries=1, within_group=True)
    assert source.groups == ("a", "c"), "b has one class only"
    stream = generator()
    group = source.task_groups(stream, 40)
    classes = source.sample(stream, 40).support.x.flatten(1).long()
    assert bool(((classes < 3) == (group == 0).unsqueeze(1)).all())
    assert {0, 1} == set(group.tolist())


@pytest.mark.parametrize("source", [Sine(), Episodes(pool(), way=2, shot=1, queries=1)])
def test_sources_without_groups_say_so(source: Sine) -> None:
    assert source.groups == ()
    with pytest.raises(ValueError, match=r"no groups.*within_alphabet"):
        source.task_groups(generator(), 3)


def test_bad_ranges_are_refused() -> None:
    with pytest.raises(ValueError, match="whole number of bins"):
        SineGroups(ranges=((0.1, 0.17),), bin_width=0.05)
    with pytest.raises(ValueError, match="whole number of bins"):
        SineGroups(bin_width=0.0)
    with pytest.raises(ValueError, match="shot and queries"):
        SineGroups(shot=0)

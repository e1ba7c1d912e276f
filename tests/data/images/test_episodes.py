from dataclasses import replace

import numpy as np
import pytest
import torch

from innerloop.core.streams import generator
from innerloop.data.images.augment import flip_shift, rotated
from innerloop.data.images.episodes import Episodes
from innerloop.data.mapped import MappedRows
from innerloop.data.pool import ClassPool
from innerloop.data.transfer import to_device

from ..conftest import make_pool


def classes_of(x):
    """The pool class of each image, read off its grey value."""
    return ((x[..., 0, 1, 1] * 255).round().long() - 1) // 20


def numbers_of(x):
    return (x[..., 0, 0, 0] * 255).round().long()


def test_labels_name_the_same_class_in_support_and_query(pool, rng):
    task = Episodes(pool, way=3, shot=2, queries=3).sample(rng, 50)
    assert task.support.x.shape == (50, 6, 1, 4, 4) and task.support.x.dtype == torch.float32
    assert task.query.x.shape == (50, 9, 1, 4, 4) and task.query.y.dtype == torch.int64
    for t in range(50):
        named = dict(
            zip(task.support.y[t].tolist(), classes_of(task.support.x[t]).tolist(), strict=True)
        )
        assert sorted(named) == [0, 1, 2] and len(set(named.values())) == 3
        expected = [named[y] for y in task.query.y[t].tolist()]
        assert classes_of(task.query.x[t]).tolist() == expected


def test_no_image_occurs_twice_in_a_task_even_when_all_are_used(rng):
    pool = make_pool(sizes=(5, 5, 5))
    task = Episodes(pool, way=3, shot=2, queries=3).sample(rng, 30)
    x = torch.cat([task.support.x, task.query.x], 1)
    key = classes_of(x) * 1000 + numbers_of(x)
    assert (key.sort(1).values.diff(dim=1) > 0).all()


def test_every_image_of_every_class_is_drawn_whatever_the_class_size(pool, rng):
    task = Episodes(pool, way=3, shot=1, queries=1).sample(rng, 2000)
    seen = torch.stack([classes_of(task.query.x), numbers_of(task.query.x)], -1).view(-1, 2)
    assert len(seen.unique(dim=0)) == len(pool)


def test_rows_are_grouped_by_class_in_random_class_order(pool, rng):
    y = Episodes(pool, way=3, shot=2, queries=2).sample(rng, 200).support.y.view(200, 3, 2)
    assert (y[..., 0] == y[..., 1]).all()
    assert len({tuple(row) for row in y[..., 0].tolist()}) == 6


def test_labels_are_not_tied_to_classes(pool, rng):
    task = Episodes(pool, way=3, shot=1, queries=1).sample(rng, 3000)
    table = torch.zeros(6, 3)
    table.index_put_(
        (classes_of(task.support.x).flatten(), task.support.y.flatten()),
        torch.ones(9000),
        accumulate=True,
    )
    assert (table - 500).abs().max() < 100  # 4.7 standard deviations


def test_the_generator_alone_decides(pool):
    source = Episodes(pool, way=3, shot=1, queries=2, rotate="augment", augment="flip-shift")
    first = source.sample(generator(0, "train", 7), 4)
    source.sample(generator(1, "x"), 9)
    again = source.sample(generator(0, "train", 7), 4)
    other = source.sample(generator(0, "train", 8), 4)
    assert torch.equal(first.query.x, again.query.x)
    assert torch.equal(first.query.y, again.query.y)
    assert not torch.equal(first.query.x, other.query.x)


def test_within_group_takes_all_classes_from_one_group(rng):
    pool = make_pool(sizes=(4,) * 9, groups=2)  # 5 and 4 classes
    task = Episodes(pool, way=4, shot=1, queries=1, within_group=True).sample(rng, 200)
    group = classes_of(task.support.x) % 2
    assert (group == group[:, :1]).all()
    assert set(group[:, 0].tolist()) == {0, 1}


def test_small_groups_are_left_out_and_named():
    pool = make_pool(sizes=(4,) * 9, groups=2)
    source = Episodes(pool, way=5, shot=1, queries=1, within_group=True)
    assert source.left_out == ["group1 (4)"]
    assert source.describe()["left_out_groups"] == "group1 (4)"
    with pytest.raises(ValueError, match=r"6 classes; the 2 groups .* group0 \(5\), group1 \(4\)"):
        Episodes(pool, way=6, shot=1, queries=1, within_group=True)


def test_augmenting_by_rotation_turns_all_images_of_a_class_alike(rng):
    side = 5
    images = torch.zeros(40, 1, side, side, dtype=torch.uint8)
    images[:, 0, 0, 1] = 255  # a mark that tells the four turns apart
    pool = ClassPool(
        images, torch.arange(40) // 10, list("abcd"), torch.zeros(4, dtype=torch.int64), ["all"]
    )
    source = Episodes(pool, way=3, shot=2, queries=3, rotate="augment")
    draw = source.draw(torch.Generator().manual_seed(5), 60)
    task = source.sample(torch.Generator().manual_seed(5), 60)
    for batch in task:
        for r in range(4):
            expected = torch.rot90(images[0].float() / 255, r, (-2, -1))
            mine = batch.x[draw.turns.gather(1, batch.y) == r]
            assert len(mine) > 50
            assert torch.equal(mine, expected.expand_as(mine))


def test_turned_agrees_with_rot90_one_by_one(rng):
    images = torch.rand(30, 2, 6, 6, generator=rng)
    turns = torch.randint(0, 4, (30,), generator=rng)
    expected = torch.stack(
        [torch.rot90(i, int(r), (-2, -1)) for i, r in zip(images, turns, strict=True)]
    )
    assert torch.equal(rotated(images, turns), expected)


def test_flip_shift_moves_and_mirrors_each_image_on_its_own():
    image = torch.arange(35.0).view(1, 1, 5, 7)
    out = flip_shift(image.expand(400, 2, 5, 7), torch.Generator().manual_seed(0), reach=1)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")[0, 0]
    shifts = [padded[r : r + 5, c : c + 7] for r in range(3) for c in range(3)]
    possible = torch.stack(shifts + [s.flip(-1) for s in shifts])
    same = (out[:, :1].flatten(1)[:, None] == possible.flatten(1)[None]).all(-1)
    assert (same.sum(1) == 1).all() and same.any(0).all()
    assert torch.equal(out[:, 0], out[:, 1])


def test_flip_shift_reaches_the_tasks(rng):
    pool = make_pool(side=8)
    source = Episodes(pool, way=3, shot=1, queries=4, augment="flip-shift")
    x = source.sample(rng, 20).query.x
    corner = (x[..., 0, 0, 0] * 255).round() >= 100
    assert corner.any() and not corner.all()


def test_numbers_travel_together_and_keep_their_shapes():
    sent = [torch.arange(6).view(2, 3), torch.zeros(0, dtype=torch.int64), torch.tensor(7)]
    there = to_device(sent, torch.device("cpu"))
    assert [t.shape for t in there] == [t.shape for t in sent]
    assert all(torch.equal(a, b) for a, b in zip(sent, there, strict=True))
    assert there[0].untyped_storage().data_ptr() == there[2].untyped_storage().data_ptr()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_draw_never_waits_for_the_accelerator(tmp_path, on_disk):
    pool = make_pool(sizes=(20,) * 6, side=8)
    settings = dict(way=3, shot=1, queries=4, rotate="augment", augment="flip-shift")
    expected = Episodes(pool, **settings).sample(generator(0), 5)
    if on_disk:
        np.save(tmp_path / "a.npy", pool.images.numpy())
        pool = replace(pool, images=MappedRows(tmp_path / "a.npy"))
    source = Episodes(pool, device="cuda", **settings)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = source.sample(generator(0), 5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a.x, b.x.cpu()) and torch.equal(a.y, b.y.cpu())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(way=1), "way must be at least 2"),
        (dict(shot=0), "support set would be empty"),
        (dict(queries=0), "query set would be empty"),
        (dict(way=7), "way is 7 but split 'all' has 6 classes: class0"),
        (dict(shot=4, queries=3), r"3 of 6 classes have fewer than 7 .* class1 \(5\)"),
        (dict(rotate="yes"), "rotate must be one of none, augment, got 'yes'"),
        (dict(augment="yes"), "augment must be one of none, flip-shift"),
    ],
)
def test_impossible_settings_are_refused(pool, settings, message):
    with pytest.raises(ValueError, match=message):
        Episodes(pool, **{**dict(way=3, shot=1, queries=2), **settings})


def test_rotation_of_oblong_images_is_refused(pool):
    oblong = ClassPool(
        pool.images[..., :3], pool.label, pool.class_names, pool.class_group, pool.group_names
    )
    with pytest.raises(ValueError, match="square"):
        Episodes(oblong, way=3, shot=1, queries=1, rotate="augment")


def test_a_draw_of_no_tasks_is_refused(pool, rng):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Episodes(pool, way=3, shot=1, queries=1).sample(rng, 0)


def test_description_and_spec(pool):
    source = Episodes(pool, way=3, shot=1, queries=2, name="made up", split="train")
    said = source.describe()
    assert said["source"] == "made up" and said["split"] == "train"
    assert (said["way"], said["shot"], said["queries"]) == ("3", "1", "2")
    assert said["classes"] == "6" and said["images"] == "40"
    assert source.spec.kind == "classification"
    assert source.spec.x_shape == (1, 4, 4) and source.spec.outputs == 3

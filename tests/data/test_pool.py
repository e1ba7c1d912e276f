import pytest
import torch

from innerloop.data.pool import ClassPool, scaled, with_rotated_classes
from innerloop.data.validate import check_disjoint, check_examples

from .conftest import make_pool


def build(**changes):
    parts = dict(
        images=torch.zeros(4, 1, 2, 2, dtype=torch.uint8),
        label=torch.tensor([0, 0, 1, 1]),
        class_names=["a", "b"],
        class_group=torch.tensor([0, 0]),
        group_names=["all"],
    )
    return ClassPool(**{**parts, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(images=torch.zeros(4)), r"\(N, channels, height, width\), .* got \(4,\); add an"),
        (dict(images=torch.zeros(0, 1, 2, 2)), "must not be empty"),
        (dict(images=torch.zeros(4, 1, 2, 2, dtype=torch.int32)), "got torch.int32"),
        (dict(label=torch.tensor([0, 2, 1, -1])), r"2 of 4 labels .* \[0, 2\): -1, 2"),
        (dict(label=torch.tensor([0, 1, 1])), r"int64 of shape \(4,\)"),
        (dict(label=torch.zeros(4)), "got torch.float32"),
        (dict(class_names=["a", "a"]), "1 occur twice: a"),
        (dict(class_group=torch.tensor([0, 3])), r"1 of 2 classes .* \[0, 1\): 3"),
        (dict(class_group=torch.tensor([0])), r"int64 of shape \(2,\)"),
    ],
)
def test_malformed_pools_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_pixels_that_are_not_finite_are_refused_with_their_classes():
    images = torch.zeros(4, 1, 2, 2)
    images[1, 0, 0, 0] = torch.nan
    images[3, 0, 1, 1] = torch.inf
    with pytest.raises(ValueError, match=r"2 of 4 images hold NaN .* 2 classes: a, b"):
        build(images=images)


def test_select_keeps_images_with_their_class(pool):
    part = pool.select([4, 1])
    assert part.class_names == ["class4", "class1"]
    assert part.counts.tolist() == [8, 5]
    assert part.class_group.tolist() == pool.class_group[[4, 1]].tolist()
    assert (part.images[:, 0, 1, 1] == torch.tensor([81, 21])[part.label]).all()


def test_rows_are_grouped_by_class(pool):
    for k in range(pool.n_classes):
        rows = pool.rows[pool.starts[k] : pool.starts[k] + pool.counts[k]]
        assert (pool.label[rows] == k).all()


def test_rotated_classes_are_the_rotated_images():
    pool = make_pool(sizes=(3, 2))
    turned = with_rotated_classes(pool)
    assert turned.class_names[:3] == ["class0", "class1", "class0@90"]
    assert turned.counts.tolist() == [3, 2] * 4
    row = int(turned.rows[turned.starts[5]])
    original = int(pool.rows[pool.starts[1]])
    assert torch.equal(turned.images[row], torch.rot90(pool.images[original], 2, (-2, -1)))


def test_rotating_needs_square_images():
    with pytest.raises(ValueError, match="square"):
        with_rotated_classes(build(images=torch.zeros(4, 1, 2, 3, dtype=torch.uint8)))


def test_inverted_and_scaled():
    pool = build(images=torch.tensor([0, 51, 255, 255]).to(torch.uint8).view(4, 1, 1, 1))
    assert pool.inverted().images.flatten().tolist() == [255, 204, 0, 0]
    pixels = scaled(pool.stored(torch.tensor([2, 1]), torch.device("cpu")))
    assert torch.allclose(pixels.flatten(), torch.tensor([1.0, 0.2]), atol=1e-7)
    floats = build(images=torch.tensor([0.0, 0.25, 1.0, 1.0]).view(4, 1, 1, 1))
    assert floats.inverted().images.flatten().tolist() == [1.0, 0.75, 0.0, 0.0]


def test_small_classes_are_named_and_can_be_dropped(pool):
    with pytest.raises(ValueError, match=r"3 of 6 .* fewer than 7 images .*class1 \(5\), class3"):
        check_examples(pool, 7, "why")
    assert pool.with_at_least(7).class_names == ["class0", "class2", "class4"]
    with pytest.raises(ValueError, match="the largest has 9"):
        pool.with_at_least(10)


def test_overlap_between_splits_is_named(pool):
    splits = {"train": pool.select([0, 1, 2]), "test": pool.select([2, 3])}
    with pytest.raises(ValueError, match="1 classes are in both train and test: class2"):
        check_disjoint(splits)
    apart = {"train": pool.select([0, 2]), "test": pool.select([1, 4])}
    check_disjoint(apart)
    with pytest.raises(ValueError, match="1 groups are in both train and test: group0"):
        check_disjoint(apart, by="group")

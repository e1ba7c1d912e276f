import numpy as np
import pytest
import torch

from innerloop.core.streams import generator
from innerloop.data.images.omniglot import (
    lake_runs,
    omniglot,
    read_omniglot,
    split_characters,
)
from innerloop.data.images.omniglot_files import read_characters, vinyals_split

from ..conftest import real, tiny_files, write_zip


@pytest.fixture(scope="module")
def prepared():
    return real("omniglot", "omniglot.npz")


@pytest.fixture
def tiny(tmp_path):
    return write_zip(tmp_path / "images_background.zip", tiny_files())


def sizes(parts):
    return [parts[name].n_classes for name in ("train", "validation", "test")]


def test_the_three_splits_have_their_published_sizes(prepared):
    characters = read_omniglot(prepared)
    assert not characters.partial and len(characters.pool) == 32460
    maml = split_characters(characters, "maml", 0)
    assert sizes(maml) == [1100, 100, 423]
    assert split_characters(characters, "maml", 0)["test"].class_names == maml["test"].class_names
    assert split_characters(characters, "maml", 1)["test"].class_names != maml["test"].class_names
    assert sizes(split_characters(characters, "vinyals", 0)) == [1028, 172, 423]
    background = split_characters(characters, "background", 0)
    assert background["test"].n_classes == 659
    assert background["train"].n_classes + background["validation"].n_classes == 964
    groups = {name: set(pool.class_group.tolist()) for name, pool in background.items()}
    assert [len(groups[n]) for n in ("train", "validation", "test")] == [25, 5, 20]


def test_the_vinyals_rule_is_the_published_list(prepared):
    arrays = read_characters(prepared)
    names = [f"{arrays['alphabet_names'][a]}/x" for a in arrays["alphabet_id"]]
    expected = arrays["vinyals_split"].astype(int)
    assert (vinyals_split(arrays["character_id"], names) == expected).all()


def test_polarity_and_resize(prepared):
    ink = read_omniglot(prepared).pool.images
    paper = read_omniglot(prepared, invert=False).pool.images
    assert torch.equal(ink, 255 - paper)
    assert ink.float().mean() < 0.15 * 255
    nearest = read_omniglot(prepared, resize="nearest").pool.images
    assert nearest.unique().tolist() == [0, 255] and len(ink.unique()) > 100


def test_tasks_on_the_real_set(prepared):
    splits = omniglot(prepared, way=20, shot=5, queries=15, rotate="augment-train")
    task = splits.train.sample(generator(0), 2)
    assert task.support.x.shape == (2, 100, 1, 28, 28) and task.query.y.shape == (2, 300)
    assert task.query.x.min() == 0 and task.query.x.max() == 1
    assert [s.rotate for s in (splits.train, splits.validation, splits.test)] == [
        "augment",
        "none",
        "none",
    ]
    assert splits.train.describe()["split"] == "train of maml, seed 0"


def test_rotations_as_classes(prepared):
    both = omniglot(prepared, split="vinyals", rotate="classes")
    assert both.train.pool.n_classes == 4 * 1028 and both.test.pool.n_classes == 4 * 423
    training = omniglot(prepared, split="vinyals", rotate="classes-train")
    assert training.train.pool.n_classes == 4 * 1028 and training.test.pool.n_classes == 423


def test_within_alphabet(prepared):
    source = omniglot(prepared, split="background", within_alphabet=True, way=10).test
    classes = source.draw(generator(0), 100).classes
    group = source.pool.class_group[classes]
    assert (group == group[:, :1]).all() and len(group[:, 0].unique()) == 20


@pytest.mark.parametrize("resize", ["lanczos", "nearest"])
def test_lakes_runs_agree_between_the_official_zip_and_the_prepared_file(prepared, resize):
    official = lake_runs(real("omniglot", "all_runs.zip"), resize=resize)
    ours = lake_runs(prepared, resize=resize)
    for a, b in zip(
        (*official.support, *official.query), (*ours.support, *ours.query), strict=True
    ):
        assert torch.equal(a, b)
    assert official.support.x.shape == official.query.x.shape == (20, 20, 1, 28, 28)
    assert (official.query.y.sort(1).values == torch.arange(20)).all()


def test_the_unprepared_zip_can_be_read(tiny):
    characters = read_omniglot(tiny)
    assert characters.partial
    assert characters.pool.class_names[3] == "Greek/character01"
    assert characters.character_id.tolist() == [108, 109, 110, 394, 395, 396]
    assert sizes(split_characters(characters, "maml", 0)) == [4, 1, 1]


def test_a_split_without_characters_is_refused_with_the_way_out(tiny):
    with pytest.raises(ValueError, match=r"vinyals split leaves no characters for validation and"):
        omniglot(tiny, split="vinyals")


@pytest.mark.parametrize("name", ["split", "rotate", "resize"])
def test_unknown_words_are_refused(tiny, name):
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'upside down'"):
        omniglot(tiny, **{name: "upside down"})


def test_no_data_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="innerloop prepare omniglot"):
        omniglot(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"all_runs\.zip|no Omniglot"):
        lake_runs(tmp_path)


def test_damaged_and_foreign_npz_are_refused(tmp_path):
    path = tmp_path / "omniglot.npz"
    path.write_bytes(b"PK not really")
    with pytest.raises(ValueError, match="damaged or not an npz"):
        omniglot(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(ValueError, match="not a prepared Omniglot file: alphabet_id"):
        omniglot(path)

"""The published layouts: every image lands in its class, and what is wrong is said with a fix."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from innerloop.config import Cub, Published, sources
from innerloop.core.streams import generator
from innerloop.data.prepared import prepared
from innerloop.data.published import cub, prepare_published, published
from innerloop.data.readers.cifar import read_cifar_fs, read_fc100
from innerloop.data.readers.cub import chen_split, read_cub
from innerloop.data.readers.mini_imagenet import read_mini_imagenet
from innerloop.data.readers.tiered_imagenet import read_tiered_imagenet

from . import layouts

SPLITS = {"train": "train", "validation": "val", "test": "test"}
LAYOUTS = {
    "mini csv": (layouts.mini_csv, read_mini_imagenet, "mini-imagenet", 84, 3),
    "mini cache": (layouts.mini_cache, read_mini_imagenet, "mini-imagenet", 84, 3),
    "mini category": (layouts.mini_category, read_mini_imagenet, "mini-imagenet", 84, 3),
    "tiered png": (layouts.tiered_png, read_tiered_imagenet, "tiered-imagenet", 84, 2),
    "tiered npz": (layouts.tiered_npz, read_tiered_imagenet, "tiered-imagenet", 84, 2),
    "cifar-fs folders": (layouts.cifar_folders, read_cifar_fs, "cifar-fs", 32, 2),
    "cifar-fs pickles": (
        lambda root: layouts.labelled(root, "CIFAR_FS", "cifar-fs"),
        read_cifar_fs,
        "cifar-fs",
        32,
        3,
    ),
    "fc100": (lambda root: layouts.labelled(root, "FC100", "fc100"), read_fc100, "fc100", 32, 3),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Each layout, written once for all tests that only read it."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = LAYOUTS[name][0](tmp_path_factory.mktemp("data") / name.replace(" ", "_"))
        return made[name]

    return get


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_image_is_in_its_class(name, written):
    """Images tell a number of their own class: within a class all the same, between them not."""
    _, read, dataset, side, per_class = LAYOUTS[name]
    root = written(name)
    seen: set[int] = set()
    for split, short in SPLITS.items():
        pool = read(root, split)
        count = layouts.SIZES[dataset][short]
        assert pool.n_classes == count and pool.x_shape == (3, side, side)
        assert pool.images.dtype == torch.uint8 and pool.images.is_contiguous()
        assert pool.counts.tolist() == [per_class] * count
        told = [
            {layouts.told(image) for image in pool.images[pool.label == k].numpy()}
            for k in range(count)
        ]
        assert all(len(numbers) == 1 for numbers in told)
        numbers = {n for members in told for n in members}
        assert len(numbers) == count and not numbers & seen
        seen |= numbers
    assert seen == set(range(len(seen)))


def test_names_and_groups(written):
    mini = read_mini_imagenet(written("mini csv"), "validation")
    assert mini.class_names == [layouts.wnid(64 + k) for k in range(16)]
    assert mini.group_names == ["all"]
    cache = read_mini_imagenet(written("mini cache"), "validation")
    assert cache.class_names == mini.class_names
    assert read_mini_imagenet(written("mini category"), "test").class_names[0] == "class 80"
    folders = read_cifar_fs(written("cifar-fs folders"), "train")
    assert folders.class_names[0] == "thing_63"  # the order of the list
    tiered = read_tiered_imagenet(written("tiered png"), "test")
    assert tiered.class_names[:3] == ["test/000 crane", "test/001 crane", "test/002 bird 2"]
    assert tiered.group_names == [f"category {k}" for k in range(8)]
    assert tiered.class_group.tolist() == [k % 8 for k in range(160)]


def test_other_places_and_names(tmp_path):
    """learn2learn says `validation`, its CIFAR-FS lies one folder deeper."""
    root = layouts.mini_cache(tmp_path / "mini", 1, validation="validation")
    assert read_mini_imagenet(root, "validation").n_classes == 16
    layouts.cifar_folders(tmp_path / "cifar" / "cifar100", 1)
    assert read_cifar_fs(tmp_path / "cifar", "test").n_classes == 20


@pytest.mark.parametrize("protocol", [0, 4])
def test_bytes_for_keys_and_other_protocols(tmp_path, protocol, written):
    content = pickle.loads((written("fc100") / "FC100_val.pickle").read_bytes())
    as_bytes = {b"data": content["data"], b"labels": np.array(content["labels"])}
    layouts.write_pickle(tmp_path / "FC100_val.pickle", as_bytes, protocol)
    ours, plain = read_fc100(tmp_path, "validation"), read_fc100(written("fc100"), "validation")
    assert torch.equal(ours.images, plain.images) and torch.equal(ours.label, plain.label)


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (read_mini_imagenet, ["train.csv", "mini-imagenet-cache", "meta-learning-lstm"]),
        (read_tiered_imagenet, ["_images_png.pkl", "few-shot-ssl-public"]),
        (read_cifar_fs, ["splits/bertinetto", "r2d2"]),
        (read_fc100, ["FC100_", "TADAM"]),
        (read_cub, ["images.txt", "CUB_200_2011.tgz"]),
    ],
)
def test_missing_files_are_named_with_their_source(tmp_path, read, words):
    with pytest.raises(FileNotFoundError) as caught:
        read(tmp_path / "none", "train")
    for word in ["expected", "cannot be downloaded", "--data.root", str(tmp_path), *words]:
        assert word in str(caught.value)
    with pytest.raises(ValueError, match="split must be one of train, validation, test"):
        read(tmp_path, "val")


def spoil(root: Path, name: str, change) -> Path:
    """Change what a pickle holds."""
    path = root / name
    content = pickle.loads(path.read_bytes())
    layouts.write_pickle(path, change(content))
    return root


def without(rows: slice):
    """Only these rows of a dictionary of images and labels."""
    return lambda c: {"data": c["data"][rows], "labels": c["labels"][rows]}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (without(slice(0, 19)), "expected 20 test classes of fc100, found 19"),
        (lambda c: {**c, "labels": c["labels"][:-1]}, "expected 60 labels"),
        (lambda c: {**c, "data": c["data"].astype(float)}, "uint8.*float64"),
        (lambda c: {**c, "data": c["data"][:, :16]}, r"\(N, 32, 32, 3\).*\(60, 16, 32, 3\)"),
        (lambda c: {**c, "data": c["data"].tolist()}, "found list"),
        (lambda c: {"data": c["data"]}, "found data"),
        (lambda c: [c["data"], c["labels"]], "dictionary.*list"),
        (lambda c: {**c, "labels": [[1, 2], [3]] * 30}, "one number or name per image"),
    ],
)
def test_wrong_content_of_a_pickle(tmp_path, written, change, word):
    shutil.copytree(written("fc100"), tmp_path / "copy")
    root = spoil(tmp_path / "copy", "FC100_test.pickle", change)
    with pytest.raises(ValueError, match=word) as caught:
        read_fc100(root, "test")
    assert "FC100_test.pickle" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: {**c, "class_dict": list(c["class_dict"])}, "dictionary.*list"),
        (lambda c: {**c, "class_dict": {**c["class_dict"], "n1": [999]}}, r"n1 .* 0\.\.47"),
        (
            lambda c: {**c, "class_dict": {k: v[:2] for k, v in c["class_dict"].items()}},
            "16 of 48 images belong to no class",
        ),
        (
            lambda c: {**c, "class_dict": {**c["class_dict"], "n1": []}},
            "expected 16 validation classes of mini-imagenet, found 17",
        ),
    ],
)
def test_wrong_content_of_a_cache(tmp_path, written, change, word):
    shutil.copytree(written("mini cache"), tmp_path / "copy")
    with pytest.raises(ValueError, match=word):
        read_mini_imagenet(
            spoil(tmp_path / "copy", "mini-imagenet-cache-val.pkl", change), "validation"
        )


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Shell:
        def __reduce__(self):
            return print, ("never",)

    layouts.write_pickle(tmp_path / "FC100_train.pickle", {"data": Shell(), "labels": []})
    with pytest.raises(ValueError, match="could run code"):
        read_fc100(tmp_path, "train")


def test_wrong_lists_and_images_of_mini_imagenet(tmp_path, written):
    shutil.copytree(written("mini csv"), tmp_path / "copy")
    root, table = tmp_path / "copy", tmp_path / "copy" / "val.csv"
    lines = table.read_text().splitlines()
    gone = root / "images" / lines[3].split(",")[0]
    damaged = root / "images" / lines[5].split(",")[0]
    damaged.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=rf"1 of 48 images cannot be read: .*{damaged.name}"):
        read_mini_imagenet(root, "validation")
    gone.unlink()
    with pytest.raises(ValueError, match=rf"expected 48 image files, found 47; .*{gone.name}"):
        read_mini_imagenet(root, "validation")
    for content, word in (
        (lines[1:], "filename,label"),
        ([], "filename,label"),
        ([*lines, "../../secret.jpg,n9"], "without folders"),
        ([*lines, "a.jpg,b,c"], "file name,class"),
        (lines[:-20], "expected 16 validation classes|image files"),
        (lines[:10], "expected 16 validation classes of mini-imagenet, found 9"),
    ):
        table.write_text("\n".join(content) + "\n")
        with pytest.raises(ValueError, match=word):
            read_mini_imagenet(root, "validation")


def test_wrong_folders_of_cifar_fs(tmp_path):
    root = layouts.cifar_folders(tmp_path, 1)
    shutil.rmtree(root / "data" / "thing_80")
    with pytest.raises(ValueError, match="no folder for 1 of 20 lines: thing_80"):
        read_cifar_fs(root, "test")
    (root / "data" / "thing_80").mkdir()
    with pytest.raises(ValueError, match="none of 1 classes: thing_80"):
        read_cifar_fs(root, "test")
    listed = root / "splits" / "bertinetto" / "test.txt"
    listed.write_text("thing_81\n../data/thing_82\n")
    with pytest.raises(ValueError, match="no folder for 1 of 2 lines"):
        read_cifar_fs(root, "test")
    listed.write_text("thing_81\nthing_82\n")
    with pytest.raises(ValueError, match="expected 20 test classes of cifar-fs, found 2"):
        read_cifar_fs(root, "test")


def test_wrong_files_of_tiered_imagenet(tmp_path, written):
    root = tmp_path / "png"
    root.mkdir()
    for name in ("val_images_png.pkl", "val_labels.pkl"):
        shutil.copy(written("tiered png") / name, root / name)

    def spoiled(name, change, word):
        before = (root / name).read_bytes()
        spoil(root, name, change)
        with pytest.raises(ValueError, match=word):
            read_tiered_imagenet(root, "validation")
        (root / name).write_bytes(before)

    images, labels = "val_images_png.pkl", "val_labels.pkl"
    spoiled(images, lambda c: [c[0][:40], *c[1:]], r"1 of 194 images cannot be read: number 0")
    spoiled(images, lambda c: [*c[:-1], "text"], r"1 of 194 images cannot be read: number 193")
    spoiled(images, lambda c: c[:-1], "found 193 in .* and 194 in")
    spoiled(images, lambda c: {"images": c}, "expected a list of PNG files, found a dict")
    spoiled(labels, lambda c: {**c, "label_specific_str": ["crane"]}, "97 labels and 1 names")
    spoiled(
        labels,
        lambda c: {**c, "label_general": np.arange(194)},
        "label_general does not give every class one of 6",
    )
    spoiled(labels, lambda c: {**c, "label_general": np.arange(3)}, "one category per image")
    spoiled(labels, lambda c: {"label_specific": c["label_specific"]}, "found label_specific")
    (root / labels).unlink()
    with pytest.raises(FileNotFoundError, match=r"_labels\.pkl"):
        read_tiered_imagenet(root, "validation")


def test_damaged_npz(tmp_path, written):
    name = "val_images.npz"
    shutil.copy(written("tiered npz") / "val_labels.pkl", tmp_path)
    whole = (written("tiered npz") / name).read_bytes()
    for content in (whole[:-3000], whole[:100], b"no zip"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"val_images\.npz is damaged"):
            read_tiered_imagenet(tmp_path, "validation")
    for arrays, word in (
        ({"pictures": np.zeros(3)}, "no array `images`"),
        ({"images": np.zeros((194, 84, 84, 3))}, "uint8.*float64"),
        ({"images": np.asfortranarray(np.zeros((194, 84, 84, 3), np.uint8))}, "column-major"),
        ({"images": np.array([{"a": 1}], object)}, "uint8"),
    ):
        np.savez(tmp_path / name, **arrays)
        with pytest.raises(ValueError, match=word):
            read_tiered_imagenet(tmp_path, "validation")


def test_cub(tmp_path):
    root = layouts.birds(tmp_path / "CUB_200_2011")
    seen = []
    for split, count in (("train", 100), ("validation", 50), ("test", 50)):
        pool = read_cub(tmp_path, split, size=8, crop=True)  # one folder above the tables
        assert pool.n_classes == count and pool.counts.tolist() == [2] * count
        numbers = [layouts.told(image) for image in pool.images.numpy()]
        assert pool.class_names == [f"{n + 1:03d}.Bird_{n}" for n in dict.fromkeys(numbers)]
        seen.append(set(numbers))
    assert seen[0] == set(range(0, 200, 2))
    assert seen[1] == set(range(1, 200, 4)) and seen[2] == set(range(3, 200, 4))
    whole = read_cub(root, "train", size=10)
    assert whole.x_shape == (3, 10, 10) and int(whole.images[0, :, 0, 0].min()) == 255
    assert chen_split(["c", "b", "d", "a"]) == {
        "train": ["a", "c"],
        "validation": ["b"],
        "test": ["d"],
    }


def test_cub_with_a_split_file(tmp_path):
    root = layouts.birds(tmp_path / "birds", classes=6)
    names = [f"{k + 1:03d}.Bird_{k}" for k in range(6)]
    listed = tmp_path / "split.json"
    parts = {"train": names[3:], "val": names[:2], "test": [names[2]]}
    listed.write_text(json.dumps(parts))
    assert read_cub(root, "train", size=4, split_file=listed).class_names == names[3:]
    assert read_cub(root, "validation", size=4, split_file=listed).n_classes == 2
    with pytest.raises(ValueError, match="expected 200 classes, found 6"):
        read_cub(root, "train")
    for content, word in (
        ("{", "not JSON"),
        ("[]", "nothing like it for train"),
        (json.dumps({**parts, "val": []}), "nothing like it for val"),
        (json.dumps({**parts, "val": [names[2]]}), "0 unknown and 1 repeated"),
        (json.dumps({**parts, "val": ["eagle"]}), "1 unknown and 0 repeated: eagle"),
    ):
        listed.write_text(content)
        with pytest.raises(ValueError, match=word):
            read_cub(root, "train", split_file=listed)
    with pytest.raises(FileNotFoundError, match="no split file"):
        read_cub(root, "train", split_file=tmp_path / "none.json")


def test_wrong_tables_of_cub(tmp_path):
    root = layouts.birds(tmp_path, per_class=1)

    def refused(name, text, error, word):
        before = (root / name).read_text()
        (root / name).write_text(text(before)) if text else (root / name).unlink()
        with pytest.raises(error, match=word):
            read_cub(root, "train", size=4, crop=True)
        (root / name).write_text(before)

    refused("classes.txt", None, FileNotFoundError, r"classes\.txt")
    refused("classes.txt", lambda t: t.replace("7 007", "x 007"), ValueError, "in line 7")
    refused("image_class_labels.txt", lambda t: t[t.index("2 2") :], ValueError, "199 in image_c")
    refused("image_class_labels.txt", lambda t: t.replace("9 9\n", "9 999\n"), ValueError, "999")
    refused("images.txt", lambda t: t.replace("003.Bird_2/", "../"), ValueError, "outside")
    refused("bounding_boxes.txt", lambda t: t.replace("1 4.0", "1 90.0"), ValueError, "box")
    (root / "images" / "003.Bird_2" / "Bird_2_0000.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 100 photographs cannot be read.*Bird_2_0000"):
        read_cub(root, "train", size=4)


def test_tasks_say_where_they_come_from(written, tmp_path, monkeypatch):
    splits = published("fc100", written("fc100"), way=5, shot=1, queries=2, augment="flip-shift")
    tasks = splits.test.sample(generator(0), 3)
    assert tasks.query.x.shape == (3, 10, 3, 32, 32) and tasks.query.x.max() <= 1
    said = splits.test.describe()
    assert said["source"] == "fc100, partial: 300 of 60000 images"
    assert said["split"] == "test as published" and said["augment"] == "none"
    assert splits.train.describe()["augment"] == "flip-shift"
    monkeypatch.setenv("INNERLOOP_DATA", str(tmp_path))
    (tmp_path / "fc100").symlink_to(written("fc100"))
    assert torch.equal(
        published("fc100", shot=1, queries=2).test.sample(generator(0), 3).query.x, tasks.query.x
    )
    with pytest.raises(ValueError, match="dataset must be one of mini-imagenet"):
        published("imagenet")
    layouts.birds(tmp_path / "cub")
    birds = cub(way=2, queries=1, size=8, crop=True)
    assert birds.test.describe()["split"] == "test of Chen et al. 2019, cropped to boxes"
    assert birds.test.describe()["source"] == "cub, partial: 400 of 11788 images"


def test_a_class_in_two_splits_is_refused(tmp_path, written):
    shutil.copytree(written("fc100"), tmp_path / "copy")
    shift = {k: (v - 20 if isinstance(v, int) else v) for k, v in enumerate(range(100))}
    spoil(
        tmp_path / "copy",
        "FC100_test.pickle",
        lambda c: {**c, "labels": [shift[n] for n in c["labels"]]},
    )
    with pytest.raises(ValueError, match="20 classes are in both validation and test"):
        published("fc100", tmp_path / "copy", queries=2)


def test_prepared_once_and_mapped(tmp_path, written):
    """What `prepare_published` writes gives the tasks that reading the files gives."""
    out = tmp_path / "out"
    assert prepare_published("tiered-imagenet", out, written("tiered png")) == (1216, 608)
    options = {"way": 5, "shot": 1, "queries": 1}
    ours = prepared(out, **options)
    theirs = published("tiered-imagenet", written("tiered png"), **options)
    for one, other in ((ours.train, theirs.train), (ours.test, theirs.test)):
        ours_x = one.sample(generator(1), 2).support.x
        assert torch.equal(ours_x, other.sample(generator(1), 2).support.x)
    assert ours.test.describe()["source"] == "tiered-imagenet, partial: 1216 of 779165 images"
    with pytest.raises(FileNotFoundError, match="no train split of fc100"):
        prepare_published("fc100", tmp_path / "other", tmp_path / "none")
    assert not (tmp_path / "other").exists()


def test_sections(written, tmp_path):
    """As a run's configuration says it, with other sizes for test tasks."""
    settings = Published(dataset="fc100", root=str(written("fc100")), way=20, queries=2)
    splits = sources.build(settings, sources.TestTasks(way=5), "cpu")
    assert (splits.train.spec.outputs, splits.test.spec.outputs) == (20, 5)
    layouts.birds(tmp_path)
    birds = Cub(root=str(tmp_path), queries=1, size=8)
    assert sources.build(birds, sources.TestTasks(), "cpu").train.spec.x_shape == (3, 8, 8)

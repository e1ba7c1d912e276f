import json
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from innerloop.core.streams import generator
from innerloop.data.images.episodes import Episodes
from innerloop.data.images.folder import folder
from innerloop.data.images.folder_prepare import prepare_folder
from innerloop.data.mapped import MappedRows
from innerloop.data.pool_writer import PoolWriter
from innerloop.data.prepared import open_prepared, prepared
from innerloop.data.splits import Skipped

from .conftest import make_pool, write_prepared
from .images.test_folder import damaged, fill, names

TASKS = dict(way=2, shot=1, queries=2, fractions=(0.34, 0.33, 0.33))


def written(tmp_path, **more):
    return write_prepared(tmp_path / "set", make_pool(side=6, channels=3), **more)


def edited(root, **changes):
    path = root / "classes.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, **changes}))
    return root


def same_tasks(one, other):
    for part in ("train", "validation", "test"):
        a, b = (getattr(splits, part) for splits in (one, other))
        assert a.describe() == b.describe() and a.pool.class_names == b.pool.class_names
        for x, y in zip(a.sample(generator(3), 5), b.sample(generator(3), 5), strict=True):
            assert torch.equal(x.x, y.x) and torch.equal(x.y, y.y)


def test_what_is_written_is_what_is_read(tmp_path):
    pool = make_pool(side=6, channels=3)
    held = open_prepared(written(tmp_path, name="six classes"))
    assert held.name == "six classes" and held.class_split is None
    assert held.pool.class_names == pool.class_names and held.pool.group_names == pool.group_names
    assert torch.equal(held.pool.class_group, pool.class_group)
    assert torch.equal(held.pool.counts, pool.counts)
    for k in range(6):
        mine, theirs = (p.select([k]).to("cpu").images for p in (held.pool, pool))
        assert torch.equal(mine, theirs)
    assert np.array_equal(  # anybody can read the file
        np.load(tmp_path / "set" / "images.npy", mmap_mode="r"), held.pool.to("cpu").images
    )


def test_the_folder_and_its_prepared_set_give_the_same_tasks(tmp_path):
    root = fill(tmp_path / "photos", names(8), images=5)
    settings = dict(**TASKS, seed=4, augment="flip-shift", invert=True)
    report = prepare_folder(root, tmp_path / "out", size=8)
    assert (report.images, report.classes, report.bytes) == (40, 8, 256 + 40 * 192)
    one = folder(root, size=8, **settings)
    same_tasks(one, prepared(tmp_path / "out", **settings))
    resident = prepared(tmp_path / "out", **settings, resident=True, device="cpu")
    assert isinstance(resident.train.pool.images, torch.Tensor)
    same_tasks(one, resident)


def test_groups_and_split_folders_are_kept(tmp_path):
    for g in range(5):
        fill(tmp_path / "grouped" / f"g{g}", names(3), start=3 * g)
    prepare_folder(tmp_path / "grouped", tmp_path / "a", size=8, channels=1)
    settings = dict(**TASKS, within_group=True)
    same_tasks(
        folder(tmp_path / "grouped", size=8, channels=1, **settings),
        prepared(tmp_path / "a", **settings),
    )
    for i, part in enumerate(("train", "val", "test")):
        fill(tmp_path / "split" / part, names(3, 3 * i))
    prepare_folder(tmp_path / "split", tmp_path / "b", size=8)
    splits = prepared(tmp_path / "b", **TASKS)
    assert splits.test.pool.class_names == names(3, 6)
    same_tasks(folder(tmp_path / "split", size=8, **TASKS), splits)


def test_a_table_in_parts(tmp_path, rng):
    table = torch.randn(6, 10, 3, generator=rng)
    with PoolWriter(tmp_path / "table") as out:
        for half in (slice(0, 4), slice(4, 10)):
            for k in range(6):
                out.add(f"c{k}", table[k, half].numpy())
    splits = prepared(tmp_path / "table", **TASKS)
    assert splits.train.spec.x_shape == (3,)
    x = splits.train.sample(generator(0), 50).query.x
    assert x.shape == (50, 4, 3) and x.dtype == torch.float32
    assert torch.isin(x[..., 0], table[..., 0]).all()
    with pytest.raises(ValueError, match=r"square images \(channels, size, size\), got \(3,\)"):
        prepared(tmp_path / "table", **TASKS, rotate="augment")
    with pytest.raises(ValueError, match="augment='flip-shift' needs images"):
        prepared(tmp_path / "table", **TASKS, augment="flip-shift")


def test_small_classes_are_refused_or_skipped(tmp_path):
    root = write_prepared(tmp_path / "set", make_pool(sizes=(3, 2, 3, 4, 3, 3, 2, 5)))
    with pytest.raises(ValueError, match=r"2 of 8 classes .* class1 \(2\), class6 \(2\)"):
        prepared(root, **TASKS)
    skipped = Skipped()
    splits = prepared(root, **TASKS, skip_bad=True, skipped=skipped)
    assert [line.split()[2] for line in skipped.lines()] == ["class1", "class6"]
    assert splits.train.describe()["source"] == "set, skipped 0 files and 2 classes"


ONE = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([torch.zeros(2, 3, dtype=torch.int32)], "c0 is int32, expected uint8.*float()"),
        ([np.zeros((2, 3))], "c0 is float64"),
        ([torch.zeros(3)], r"rows of shape \(k, ...\), got \(3,\); give one row as row\[None\]"),
        ([ONE[:0]], r"got \(0, 3\)"),
        ([ONE, torch.zeros(2, 4)], r"c1 has rows \(4,\) of float32, those before it \(3,\)"),
        ([ONE, ONE.to(torch.uint8)], "c1 has rows .* of uint8"),
        ([ONE, torch.tensor([[1.0, torch.nan, 0.0], [1.0, 2.0, 3.0]])], "1 of 2 rows of class c1"),
        ([], "nothing to write"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message), PoolWriter(tmp_path / "x") as out:
        for k, values in enumerate(rows):
            out.add(f"c{k}", values)
    assert not list(tmp_path.iterdir())


def test_classes_have_one_group_and_all_a_split_or_none(tmp_path):
    with (
        pytest.raises(ValueError, match=r"c came with .*\('a', None\), now with \('b', None\)"),
        PoolWriter(tmp_path / "x") as out,
    ):
        out.add("c", ONE, group="a")
        out.add("c", ONE, group="b")
    for splits in (["train", None, "test"], ["train", "test"], ["train", "val", "test"]):
        with pytest.raises(ValueError, match="split"), PoolWriter(tmp_path / "x") as out:
            for k, split in enumerate(splits):
                out.add(f"c{k}", ONE, split=split)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(tmp_path):
    root = written(tmp_path)
    before = {p.name: p.read_bytes() for p in root.iterdir()}
    with pytest.raises(FileExistsError, match="is there already; remove it, or write elsewhere"):
        PoolWriter(root)
    with pytest.raises(FileExistsError):
        prepare_folder(fill(tmp_path / "photos", names(3)), root)
    assert {p.name: p.read_bytes() for p in root.iterdir()} == before


def test_bad_files_leave_nothing_behind_or_are_listed(tmp_path):
    root, out = damaged(tmp_path / "photos"), tmp_path / "out"
    with pytest.raises(ValueError, match=r"3 of 35 files cannot be used: .*--skip-bad"):
        prepare_folder(root, out, size=8)
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]
    report = prepare_folder(root, out, size=8, skip_bad=True)
    assert "skipped class c09 (0 of 1 files are readable images)" in report.lines()
    assert report.classes == 8
    splits = prepared(out, **TASKS)
    assert "skipped 3 files and 1 classes" in splits.train.describe()["source"]


def test_a_killed_writer_leaves_a_draft_that_the_next_one_removes(tmp_path):
    """A disk without room and a signal end the same way: the name appears whole or not at all."""
    code = (
        "import os, signal, sys, torch\n"
        "from innerloop.data.pool_writer import PoolWriter\n"
        "with PoolWriter(sys.argv[1]) as out:\n"
        "    out.add('c', torch.zeros(2, 3))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "set")], check=False)
    assert ended.returncode < 0
    assert next(p.name for p in tmp_path.iterdir()).startswith(".set.")
    written(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError), PoolWriter(tmp_path / "x") as out:
            for k in range(30):
                out.add(f"c{k}", torch.zeros(1, 4000, dtype=torch.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    root = fill(tmp_path / "photos", names(3))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(ValueError, match=r"the images take 0.00 GB, .* make room, write elsewhere"):
        prepare_folder(root, tmp_path / "new" / "out", size=8)
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_a_class_in_two_splits_is_refused_before_anything_is_read(tmp_path):
    for part in ("train", "val", "test"):
        fill(tmp_path / "photos" / part, names(2))
    with pytest.raises(ValueError, match="2 classes are in two of train, val and test: c00, c01"):
        prepare_folder(tmp_path / "photos", tmp_path / "out")


def cut(root):
    os.truncate(root / "images.npy", 500)


def relabelled(values):
    return lambda root: np.save(root / "labels.npy", values)


def longer(root):
    images = np.load(root / "images.npy")
    np.save(root / "images.npy", np.concatenate([images, images]))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut, "images.npy is cut short"),
        (
            longer,
            r"images.npy has changed since it was prepared: 4576 bytes then, .*prepare it again",
        ),
        (relabelled(np.zeros(3, np.int64)), "should hold 40 labels, int64.* got int64 .3,."),
        (relabelled(np.zeros(40)), "got float64"),
        (relabelled(np.full(40, 6)), r"40 of 40 labels are out of range \[0, 6\)"),
        (relabelled(np.arange(40) % 5), r"1 of 6 classes in .*classes.json have no row: class5"),
        (lambda r: (r / "labels.npy").write_text("x"), "labels.npy is damaged or not an .npy"),
        (lambda r: (r / "classes.json").write_text("{"), "classes.json is damaged"),
        (
            lambda r: (r / "classes.json").write_text("{}"),
            r"version 1, got None.; prepare it",
        ),
        (lambda r: edited(r, innerloop=2), "expected a table of version 1, got 2"),
        (lambda r: edited(r, class_group=[0]), "1 entries of class_group for 6 classes"),
        (lambda r: edited(r, class_split=["dev"] * 6), "unknown splits dev"),
        (lambda r: edited(r, class_names=["a"] * 6), "1 occur twice: a"),
    ],
)
def test_damage_is_named(tmp_path, harm, message):
    root = written(tmp_path)
    harm(root)
    with pytest.raises(ValueError, match=message):
        open_prepared(root)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`innerloop prepare IMAGES --out .*set`"):
        prepared(tmp_path / "set")
    root = written(tmp_path)
    (root / "labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match="no label file"):
        prepared(root)
    with pytest.raises(ValueError, match="root is empty"):
        prepared("")
    with pytest.raises(ValueError, match=r"is a prepared data set.* --data prepared --data.root"):
        folder(root)


def test_drawing_holds_no_more_than_the_tasks(tmp_path):
    """Images on disk are never in a tensor of their own: only those of one draw are."""
    held = open_prepared(written(tmp_path))
    source = Episodes(held.pool, way=2, shot=1, queries=2)
    made = []
    read = MappedRows.read

    def counted(self, index, **more):
        made.append(len(index))
        return read(self, index, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MappedRows, "read", counted)
        source.sample(generator(0), 3)
    assert made == [6, 12]

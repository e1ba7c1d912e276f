import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from innerloop.core.streams import generator
from innerloop.data.images.folder import class_folders, folder, read_folder
from innerloop.data.splits import Skipped

from ..conftest import real


def fill(root, classes, images=4, suffix="png", start=0):
    """Each class is one colour; its number among all classes is the red value."""
    for k, name in enumerate(classes, start):
        (root / name).mkdir(parents=True)
        for i in range(images):
            colour = (10 * k, 5 * i, 200)
            Image.new("RGB", (6 + i, 9), colour).save(root / name / f"{i}.{suffix}")
    return root


def names(count, start=0):
    return [f"c{k:02d}" for k in range(start, start + count)]


def test_classes_are_read_in_order_with_their_images(tmp_path):
    pool = read_folder(fill(tmp_path, names(3)), size=8)
    assert pool.class_names == names(3) and pool.group_names == ["all"]
    assert pool.images.shape == (12, 3, 8, 8) and pool.counts.tolist() == [4, 4, 4]
    assert (pool.images[:, 0, 0, 0] == 10 * pool.label).all()
    assert pool.images[5, 1, 0, 0] == 5


def test_classes_are_shared_out_by_seed_without_overlap(tmp_path):
    fill(tmp_path, names(10), images=5)

    def parts(seed):
        made = folder(tmp_path, way=2, shot=1, queries=2, size=8, seed=seed)
        return [s.pool.class_names for s in (made.train, made.validation, made.test)]

    first = parts(0)
    assert [len(p) for p in first] == [6, 2, 2]
    assert sorted(itertools.chain(*first)) == names(10)
    assert parts(0) == first and parts(1) != first


def test_split_folders_are_used_when_they_are_there(tmp_path):
    fill(tmp_path / "train", names(4))
    fill(tmp_path / "val", names(2, 4), start=4)
    fill(tmp_path / "test", names(3, 6), start=6)
    made = folder(tmp_path, way=2, shot=1, queries=1, size=8, augment="flip-shift")
    assert made.validation.pool.class_names == ["c04", "c05"]
    assert made.test.describe()["split"] == "test by folder"
    assert made.train.augment == "flip-shift" and made.test.augment == "none"
    x = made.test.sample(generator(0), 3).query.x
    assert set((x[:, :, 0, 0, 0] * 25.5).round().unique().tolist()) <= {6.0, 7.0, 8.0}


def test_some_of_the_split_folders_are_refused(tmp_path):
    fill(tmp_path / "train", names(3))
    fill(tmp_path / "test", names(3, 3))
    with pytest.raises(ValueError, match="validation missing; expected exactly train, val and"):
        folder(tmp_path, way=2, shot=1, queries=1)
    fill(tmp_path / "validation", names(3, 6))
    fill(tmp_path, ["other"])
    with pytest.raises(ValueError, match="also other"):
        folder(tmp_path, way=2, shot=1, queries=1)


def test_a_class_in_two_splits_is_refused_by_name(tmp_path):
    fill(tmp_path / "train", names(3))
    fill(tmp_path / "val", names(3, 3))
    fill(tmp_path / "test", names(3, 5))
    with pytest.raises(ValueError, match="1 classes are in both validation and test: c05"):
        folder(tmp_path, way=2, shot=1, queries=1, size=8)


def test_groups_keep_tasks_and_splits_apart(tmp_path):
    for g in range(5):
        fill(tmp_path / f"g{g}", names(3), start=3 * g)
    made = folder(tmp_path, way=3, shot=1, queries=2, size=8, within_group=True)
    groups = [
        {s.pool.group_names[i] for i in s.pool.class_group.tolist()}
        for s in (made.train, made.validation, made.test)
    ]
    assert [len(g) for g in groups] == [3, 1, 1] and len(set.union(*groups)) == 5
    assert "g0/c00" in {
        n for s in (made.train, made.validation, made.test) for n in s.pool.class_names
    }
    x = made.train.sample(generator(0), 50).support.x
    kind = (x[:, :, 0, 0, 0] * 25.5).round().long() // 3
    assert (kind == kind[:, :1]).all()


def test_mixed_layouts_are_refused(tmp_path):
    fill(tmp_path, names(2))
    fill(tmp_path / "group", names(2))
    with pytest.raises(ValueError, match="mixes two layouts: c00, c01 hold images where group"):
        class_folders(tmp_path)


def damaged(tmp_path):
    fill(tmp_path, names(8))
    (tmp_path / "c01" / "x.png").write_text("no image")
    broken = np.full((4, 4), np.nan, np.float32)
    Image.fromarray(broken).save(tmp_path / "c02" / "y.tif")
    (tmp_path / "c09").mkdir()
    (tmp_path / "c09" / "z.jpg").write_text("no image")
    return tmp_path


def test_files_that_cannot_be_used_are_counted_and_named(tmp_path):
    with pytest.raises(ValueError, match=r"3 of 35 files cannot be used: .*x\.png.*--skip-bad"):
        read_folder(damaged(tmp_path), size=8)


def test_skip_bad_lists_what_it_left_out(tmp_path):
    skipped = Skipped()
    root = damaged(tmp_path)
    for extra in range(3, 6):
        (root / "c03" / f"{extra - 2}.png").unlink()
    made = folder(
        root,
        way=2,
        shot=1,
        queries=2,
        size=8,
        skip_bad=True,
        skipped=skipped,
        fractions=(0.5, 0.25, 0.25),
        seed=1,
    )
    assert len(skipped.files) == 3 and len(skipped.classes) == 2
    lines = "\n".join(skipped.lines())
    assert "x.png: not a readable image" in lines and "y.tif: 16 of 16 pixels are NaN" in lines
    assert "skipped class c09 (0 of 1 files are readable images)" in lines
    assert "skipped class c03 (1 images, 3 needed)" in lines
    assert "skipped 3 files and 2 classes" in made.train.describe()["source"]


def test_small_classes_are_refused_by_name(tmp_path):
    fill(tmp_path, names(5), images=4)
    (tmp_path / "c02" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 5 classes have fewer than 4 images .*c02 \(3\)"):
        folder(tmp_path, way=2, shot=1, queries=3, size=8)


def test_class_folders_without_images_are_refused(tmp_path):
    fill(tmp_path, names(3))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="1 of 4 class folders hold no image: empty"):
        read_folder(tmp_path, size=8)


def test_empty_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has no sub-folders; expected one per class"):
        folder(tmp_path, way=2)
    with pytest.raises(ValueError, match="say where your images are"):
        folder("")
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        folder(tmp_path / "nowhere", way=2)


def test_too_few_classes_to_share_out_are_refused(tmp_path):
    fill(tmp_path, names(2))
    with pytest.raises(ValueError, match=r"2 classes shared out .* leave none for training"):
        folder(tmp_path, way=2, shot=1, queries=1, size=8)
    fill(tmp_path, names(3, 2))
    with pytest.raises(ValueError, match="fractions must be three positive numbers"):
        folder(tmp_path, way=2, shot=1, queries=1, size=8, fractions=(0.9, 0.2, 0.1))


def test_photographs_from_a_folder(tmp_path):
    """Real photographs as JPEG class folders, written out from the archive as a user has them."""
    with np.load(real("caltech101", "caltech101_rgb84_jpeg.npz"), allow_pickle=False) as archive:
        jpeg, offsets = archive["jpeg"], archive["offsets"]
    with np.load(real("caltech101", "caltech101_rgb32.npz"), allow_pickle=False) as archive:
        label, classes = archive["label"], archive["class_names"]
        small = archive["images"]
    for k in range(12):
        (tmp_path / str(classes[k])).mkdir()
        for i in np.flatnonzero(label == k)[:6]:
            data = jpeg[offsets[i] : offsets[i + 1]].tobytes()
            Image.open(io.BytesIO(data)).verify()
            (tmp_path / str(classes[k]) / f"{i:05d}.jpg").write_bytes(data)
    pool = read_folder(tmp_path, size=32)
    assert pool.n_classes == 12 and len(pool) == 72
    first = np.flatnonzero(label == pool_index(classes, pool.class_names[0]))[0]
    expected = torch.from_numpy(small[first]).permute(2, 0, 1).float()
    assert (pool.images[0].float() - expected).abs().mean() < 12
    made = folder(tmp_path, way=2, shot=1, queries=5, size=32, augment="flip-shift")
    assert made.train.sample(generator(0), 2).query.x.shape == (2, 10, 3, 32, 32)


def pool_index(classes, name):
    return [str(c) for c in classes].index(name)

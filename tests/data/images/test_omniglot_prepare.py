import zipfile

import numpy as np
import pytest

from innerloop.data.images.omniglot import lake_runs, omniglot
from innerloop.data.images.omniglot_files import N_CHARACTERS, read_characters
from innerloop.data.images.omniglot_prepare import KNOWN_SHA256, prepare_omniglot

from ..conftest import drawing, real, tiny_files, write_zip


def arrays_of(path):
    with np.load(path, allow_pickle=False) as opened:
        return {key: opened[key] for key in opened.files}


def assert_same(ours, reference):
    """The arrays agree on the characters that `ours` has, alphabets by name."""
    rows = ours["character_id"].astype(int) - 1
    for key in (
        "images",
        "images_nearest_bits",
        "character_id",
        "character_in_alphabet",
        "is_background",
        "vinyals_split",
    ):
        assert ours[key].dtype == reference[key].dtype, key
        assert np.array_equal(ours[key], reference[key][rows]), key
    names = [a["alphabet_names"][a["alphabet_id"]] for a in (ours, reference)]
    assert np.array_equal(names[0], names[1][rows])
    assert np.array_equal(ours["drawer_id"], reference["drawer_id"])


def test_the_official_small_zip_gives_the_reference_arrays(tmp_path):
    archive = real("omniglot", "images_background_small1.zip")
    reference = arrays_of(real("omniglot", "omniglot.npz"))
    seen = []
    report = prepare_omniglot(archive, tmp_path, progress=lambda *now: seen.append(now))
    assert_same(arrays_of(tmp_path / "omniglot.npz"), reference)
    assert (report.characters, report.alphabets, report.partial) == (136, 5, True)
    assert "partial: 136 of 1623" in report.lines()[0]
    assert report.checks == ("images_background_small1.zip: SHA-256 is as known",)
    assert seen[-1] == ("reading images_background_small1.zip", 2720, 2720)
    splits = omniglot(tmp_path)
    assert splits.train.pool.n_classes == round(136 * 1100 / 1623)
    assert splits.train.describe()["source"].endswith("partial: 136 of 1623 characters")


def test_the_unpacked_tree_gives_the_same_file(tmp_path):
    files = tiny_files()
    archive = write_zip(tmp_path / "images_background_tiny.zip", files)
    tree = tmp_path / "tree"
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tree)
    from_zip = arrays_of(prepare_omniglot(archive, tmp_path / "a").path)
    from_tree = arrays_of(prepare_omniglot(tree, tmp_path / "b").path)
    assert from_zip.keys() == from_tree.keys()
    assert all(np.array_equal(from_zip[key], from_tree[key]) for key in from_zip)
    assert from_zip["alphabet_names"].tolist() == ["Balinese", "Greek"]


def test_a_prepared_file_is_copied(tmp_path):
    first = prepare_omniglot(write_zip(tmp_path / "images_a.zip", tiny_files()), tmp_path / "a")
    second = prepare_omniglot(first.path, tmp_path / "b")
    assert second.characters == 6 and not second.has_runs
    a, b = arrays_of(first.path), arrays_of(second.path)
    assert all(np.array_equal(a[key], b[key]) for key in a)


def refused(tmp_path, files, message, name="images_tiny.zip"):
    out = tmp_path / "out" / "omniglot.npz"
    out.parent.mkdir()
    out.write_bytes(b"precious")
    with pytest.raises(ValueError, match=message):
        prepare_omniglot(write_zip(tmp_path / name, files), out)
    assert out.read_bytes() == b"precious" and len(list(out.parent.iterdir())) == 1


def test_unreadable_images_are_named_and_nothing_is_written(tmp_path):
    files = tiny_files()
    broken = "images_background/Greek/character02/0395_07.png"
    files[broken] = files[broken][:40]
    refused(tmp_path, files, f"1 images cannot be read: {broken}")


def test_missing_drawings_are_named(tmp_path):
    files = tiny_files()
    del files["images_background/Greek/character02/0395_07.png"]
    refused(tmp_path, files, "1 of 6 characters do not have 20 drawings: 0395")


def test_an_official_name_with_the_wrong_count_is_refused(tmp_path):
    refused(tmp_path, tiny_files(), "should hold 19280 images, got 120", "images_background.zip")


def test_a_known_name_with_another_content_is_refused(tmp_path):
    name = "images_background_small1.zip"
    refused(tmp_path, tiny_files(), f"SHA-256 should be {KNOWN_SHA256[name]}", name)


def test_a_truncated_zip_is_refused(tmp_path):
    archive = write_zip(tmp_path / "images_a.zip", tiny_files())
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(ValueError, match="damaged or not a zip"):
        prepare_omniglot(archive, tmp_path / "out")
    with pytest.raises(ValueError, match="damaged or not a zip"):
        read_characters(archive)


def test_two_versions_of_a_drawing_are_refused(tmp_path):
    write_zip(tmp_path / "images_a.zip", tiny_files())
    name = "images_background/Greek/character01/0394_01.png"
    write_zip(tmp_path / "images_b.zip", {name: drawing(1)})
    with pytest.raises(ValueError, match=f"1 drawings come in two versions: {name}"):
        prepare_omniglot(tmp_path, tmp_path / "out")


def test_an_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected images_background\.zip"):
        prepare_omniglot(tmp_path, tmp_path / "out")


@pytest.mark.slow
def test_the_complete_set_with_its_runs_gives_the_reference_file(tmp_path):
    reference = arrays_of(real("omniglot", "omniglot.npz"))
    original = arrays_of(real("omniglot", "omniglot_105.npz"))
    from io import BytesIO

    from PIL import Image

    parts = {"images_background": {}, "images_evaluation": {}}
    for i in range(N_CHARACTERS):
        part = "images_background" if original["is_background"][i] else "images_evaluation"
        alphabet = original["alphabet_names"][original["alphabet_id"][i]]
        folder = f"{part}/{alphabet}/character{original['character_in_alphabet'][i]:02d}"
        bits = np.unpackbits(original["images_bits"][i], axis=-1, count=11025)
        for d, pixels in enumerate(bits.reshape(20, 105, 105).astype(bool)):
            file = BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            parts[part][f"{folder}/{i + 1:04d}_{d + 1:02d}.png"] = file.getvalue()
    for part, files in parts.items():
        write_zip(tmp_path / f"{part}.zip", files)
    runs = real("omniglot", "all_runs.zip")
    (tmp_path / "all_runs.zip").write_bytes(runs.read_bytes())
    report = prepare_omniglot(tmp_path, tmp_path / "out")
    assert not report.partial and report.has_runs
    ours = arrays_of(report.path)
    assert_same(ours, reference)
    assert np.array_equal(ours["lake_runs"], reference["lake_runs"])
    assert np.array_equal(ours["lake_runs_label"], reference["lake_runs_label"])
    assert lake_runs(report.path).query.x.shape == (20, 20, 1, 28, 28)

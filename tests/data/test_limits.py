"""Files that are damaged, hostile or something else are refused in a line, at no great cost."""

import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from innerloop.core.streams import generator
from innerloop.data.cache import read_npz
from innerloop.data.images import glyphs as glyphs_module
from innerloop.data.images.episodes import Episodes
from innerloop.data.images.folder import folder
from innerloop.data.images.glyph_render import variants
from innerloop.data.images.glyphs import glyph_pool, glyphs
from innerloop.data.images.omniglot import lake_runs, omniglot, read_omniglot
from innerloop.data.images.omniglot_files import arrays_from_drawings, read_drawings
from innerloop.data.images.omniglot_prepare import prepare_omniglot
from innerloop.data.prepared import open_prepared, prepared
from innerloop.data.readers.mini_imagenet import read_mini_imagenet
from innerloop.data.readers.tiered_imagenet import read_tiered_imagenet
from innerloop.data.values.sine_groups import SineGroups
from innerloop.data.values.synthetic import LinearGaussian, Sine

from .conftest import drawing, make_pool, tiny_files, write_prepared, write_zip
from .readers import layouts


def zip_with(path, *, flag=0, method=zipfile.ZIP_STORED, size=None):
    """The tiny Omniglot, with another flag, method or size in both headers of the first file."""
    data = bytearray(write_zip(path, tiny_files()).read_bytes())
    central = data.index(b"PK\x01\x02")
    for start, at in ((0, 6), (central, 8)):
        struct.pack_into("<H", data, start + at, flag)
        if method != zipfile.ZIP_STORED:
            struct.pack_into("<H", data, start + at + 2, method)
        if size is not None:
            struct.pack_into("<I", data, start + at + 16, size)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"flag": 1}, "encrypted"),
        ({"method": 99}, "compression method is not supported"),
        ({"size": 2**31}, "2147483648 bytes, expected at most 1048576"),
        ({"size": 7}, "damaged"),
    ],
)
def test_omniglot_zips_that_cannot_be_read(tmp_path, changes, word):
    path = zip_with(tmp_path / "images_background_tiny.zip", **changes)
    with pytest.raises(ValueError, match=rf"images_background_tiny\.zip.*{word}"):
        read_drawings([path])


def test_what_is_no_drawing_is_not_unpacked(tmp_path):
    """Neither a file that would be refused by its size nor one that cannot be unpacked."""
    path = tmp_path / "images_background_tiny.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("zeros.bin", bytes(1 << 22))
        for name, data in tiny_files().items():
            opened.writestr(name, data)
    assert len(read_drawings([path])) == 120


def test_a_drawing_in_a_folder_has_a_limit_too(tmp_path):
    path = tmp_path / "Greek" / "character01" / "0394_01.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(drawing(0) + bytes(1 << 20))
    with pytest.raises(ValueError, match=r"0394_01\.png has \d+ bytes, expected at most"):
        read_drawings([tmp_path])


def test_more_alphabets_than_a_byte_can_tell_apart(tmp_path):
    drawn = read_drawings([write_zip(tmp_path / "images_x.zip", tiny_files())])
    (_, first) = min(drawn.items())
    many = {
        (k, d): first._replace(alphabet=f"alphabet {k}", drawer=d)
        for k in range(1, 258)
        for d in range(1, 21)
    }
    with pytest.raises(ValueError, match="257 alphabets, expected at most 256"):
        arrays_from_drawings(many)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The arrays of a prepared file, with runs that show one drawing only."""
    root = tmp_path_factory.mktemp("tiny")
    write_zip(root / "images_background_tiny.zip", tiny_files())
    arrays = read_npz(prepare_omniglot(root, root).path)
    runs = np.full((20, 2, 20, 2), 1, np.uint16)
    runs[..., 0] = arrays["character_id"][0]
    return {**arrays, "lake_runs": runs, "lake_runs_label": np.zeros((20, 20), np.uint8)}


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("images", lambda a: a.astype(float)),
        ("images", lambda a: a[:, :10]),
        ("images_nearest_bits", lambda a: a.astype(np.int64)),
        ("character_id", lambda a: a * 1000),
        ("character_id", lambda a: a.astype(str)),
        ("character_id", lambda a: np.array(3)),
        ("alphabet_id", lambda a: a + 2),
        ("alphabet_id", lambda a: a.astype(np.int64) - 1),
        ("alphabet_names", lambda a: np.arange(len(a))),
        ("alphabet_names", lambda a: a[:0]),
        ("character_in_alphabet", lambda a: a + 0.5),
        ("lake_runs", lambda a: a[:2]),
        ("lake_runs", lambda a: a + 500),
        ("lake_runs_label", lambda a: a + 20),
        ("lake_runs_label", lambda a: a.astype(str)),
    ],
)
def test_prepared_omniglot_of_other_shapes_types_and_numbers(tmp_path, tiny, key, change):
    np.savez(tmp_path / "omniglot.npz", **tiny)
    assert read_omniglot(tmp_path).pool.n_classes == 6 and len(lake_runs(tmp_path).query.x) == 20
    np.savez(tmp_path / "omniglot.npz", **{**tiny, key: change(tiny[key])})
    with pytest.raises(ValueError, match=r"omniglot\.npz.*innerloop prepare omniglot"):
        read_omniglot(tmp_path)


def test_npz_files_that_unpack_to_much(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(1 << 20, np.uint8))
    monkeypatch.setattr("innerloop.data.cache.MOST_BYTES", 1 << 20)
    with pytest.raises(ValueError, match=r"a\.npz.*unpacks to \d+ bytes, at most 1048576"):
        read_npz(path)


def npz_announcing(path, shape, name="images"):
    """An npz whose array says that it has this shape, and has 1000 bytes."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    room = (header + b" " * (128 - 11 - len(header))) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(room).to_bytes(2, "little") + room + bytes(1000)
    return write_zip(path, {f"{name}.npy": content})


def test_arrays_that_announce_more_than_there_is(tmp_path):
    path = npz_announcing(tmp_path / "a.npz", (10**13,))
    with pytest.raises(ValueError, match=r"a\.npz is damaged or not an npz"):
        read_npz(path)
    layouts.tiered_npz(tmp_path / "tiered")
    for rows in (10**11, 10**30):
        npz_announcing(tmp_path / "tiered" / "val_images.npz", (rows, 84, 84, 3))
        with pytest.raises(ValueError, match=rf"val_images\.npz is damaged: {rows} images"):
            read_tiered_imagenet(tmp_path / "tiered", "validation")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: {"labels": 5},
        lambda c: {"labels": None},
        lambda c: {**c, "label_specific": 7},
        lambda c: {**c, "label_specific": np.zeros((2, 2), np.int64)},
        lambda c: {**c, "label_specific_str": 7},
        lambda c: {**c, "label_general": None},
        lambda c: {**c, "label_general": ["a"] * 194},
        lambda c: {**c, "label_general": [[1], [2, 3]]},
        lambda c: {**c, "label_general": [2**70] * 194},
        lambda c: {**c, "label_general_str": 3.5},
    ],
)
def test_labels_of_tiered_imagenet_of_another_type(tmp_path, change):
    root = layouts.tiered_png(tmp_path)

    path = root / "val_labels.pkl"
    layouts.write_pickle(path, change(pickle.loads(path.read_bytes())))
    with pytest.raises(ValueError, match=r"val_labels\.pkl"):
        read_tiered_imagenet(root, "validation")


@pytest.mark.parametrize("files", [[10**10], [np.zeros(4, float)], [b"\x89PNG"], [["a"]]])
def test_images_of_tiered_imagenet_of_another_type(tmp_path, files):
    root = layouts.tiered_png(tmp_path)
    layouts.write_pickle(root / "val_images_png.pkl", files)
    with pytest.raises(ValueError, match=r"1 of 1 images cannot be read: number 0"):
        read_tiered_imagenet(root, "validation")


@pytest.mark.parametrize("rows", [5, None, "text", ["a"], [[1], [2, 3]], [1.5], [2**70], [True]])
def test_image_numbers_of_mini_imagenet_of_another_type(tmp_path, rows):

    root = layouts.mini_cache(tmp_path)
    path = root / "mini-imagenet-cache-val.pkl"
    content = pickle.loads(path.read_bytes())
    content["class_dict"] = {**content["class_dict"], "n1": rows}
    layouts.write_pickle(path, content)
    with pytest.raises(ValueError, match=r"mini-imagenet-cache-val\.pkl.* class n1"):
        read_mini_imagenet(root, "validation")


def test_a_table_of_mini_imagenet_with_an_endless_field(tmp_path):
    (tmp_path / "val.csv").write_text('filename,label\n"' + "a" * 200_000)
    with pytest.raises(ValueError, match=r"val\.csv is damaged or not a table"):
        read_mini_imagenet(tmp_path, "validation")


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("innerloop", 2),
        ("innerloop", None),
        *((key, value) for key in ("name", "bytes") for value in (None, [], 1.5, True)),
        ("bytes", float("inf")),
        *(
            (key, value)
            for key in ("class_names", "group_names", "class_group")
            for value in (None, [], {}, 5, "text", [None], [[1]], [1.5], [True], [1, "a"])
        ),
        ("class_group", [0] * 5),
        ("class_group", [0, 1, 0, 1, 0, 2]),
        ("class_group", [0, 1, 0, 1, 0, -1]),
        ("class_group", [0, 1, 0, 1, 0, 10**30]),
        ("class_split", 5),
        ("class_split", [None] * 6),
        ("class_split", ["train"] * 5),
        ("class_split", ["exam"] * 6),
        ("class_split", []),
    ],
)
def test_names_of_a_prepared_set_of_other_shapes(tmp_path, key, value):
    path = write_prepared(tmp_path / "set", make_pool()) / "classes.json"
    names = json.loads(path.read_text())
    path.write_text(json.dumps({**names, key: value}))
    with pytest.raises(ValueError, match=r"classes\.json is damaged or something else"):
        open_prepared(tmp_path / "set")
    names.pop(key)
    path.write_text(json.dumps(names))
    if key != "class_split":
        with pytest.raises(ValueError, match=r"classes\.json is damaged or something else"):
            open_prepared(tmp_path / "set")


@pytest.mark.parametrize("text", ["[]", "5", "null", DEEP, '{"innerloop": ' + DEEP, "\ud800x"])
def test_names_of_a_prepared_set_that_are_no_table(tmp_path, text):
    path = write_prepared(tmp_path / "set", make_pool()) / "classes.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"classes\.json is damaged or something else"):
        open_prepared(tmp_path / "set")


def test_a_glyph_cache_with_other_arrays_is_rendered_anew(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    right = {
        "images": rng.integers(0, 256, (3, 20, 28, 28), dtype=np.uint8),
        "code_point": np.array([65, 66, 0x3B1], np.int64),
        "class_group": np.array([0, 0, 1], np.int64),
        "group_names": np.array(["Latin", "Greek"]),
    }
    monkeypatch.setattr(glyphs_module, "render", lambda fonts, seed: right)
    expected = glyph_pool(cache=tmp_path)
    (path,) = tmp_path.glob("glyphs-*.npz")
    for key, value in (
        ("images", right["images"][:, :10]),
        ("images", right["images"].astype(np.float32)),
        ("images", right["images"][:2]),
        ("code_point", np.array([65, 66, -1])),
        ("code_point", np.array([65, 66, 2**40])),
        ("code_point", np.array([65, 66, 0])),
        ("code_point", np.array([65, 66, 65])),
        ("code_point", np.array(65)),
        ("class_group", np.array([0, 0, 2])),
        ("class_group", np.array(["a", "b", "c"])),
        ("group_names", np.array([0, 1])),
    ):
        np.savez(path, **{**right, key: value})
        found = glyph_pool(cache=tmp_path)
        assert torch.equal(found.images, expected.images)
        assert found.class_names == expected.class_names


@pytest.mark.parametrize("open_data", [folder, open_prepared, omniglot, read_mini_imagenet])
def test_the_home_of_nobody(open_data):
    more = ["train"] if open_data is read_mini_imagenet else []
    with pytest.raises(ValueError, match=r"~nobody-of-that-name.*write the whole path"):
        open_data("~nobody-of-that-name/x", *more)


def test_sources_draw_the_same_under_another_default_device(tmp_path, monkeypatch):
    """`torch.set_default_device("meta")` in place of an accelerator: nothing may follow it."""
    few = {
        "images": np.zeros((6, 20, 28, 28), np.uint8),
        "code_point": np.array([65, 66, 0x3B1, 0x3B2, 0x5D0, 0x5D1], np.int64),
        "class_group": np.repeat(np.arange(3), 2),
        "group_names": np.array(["Latin", "Greek", "Hebrew"]),
    }
    monkeypatch.setattr(glyphs_module, "render", lambda fonts, seed: few)
    outlined = torch.from_numpy(np.tri(64, dtype=np.uint8)[None] * 255)
    pool, colour, mean = make_pool(), make_pool(channels=3), torch.ones(3)
    write_prepared(tmp_path / "set", make_pool())
    write_zip(tmp_path / "images_background_tiny.zip", tiny_files())
    prepare_omniglot(tmp_path, tmp_path)
    sizes = {"way": 2, "shot": 1, "queries": 3}

    def drawn():
        sources = {
            "episodes": Episodes(colour, **sizes, rotate="augment", augment="flip-shift"),
            "groups": Episodes(pool, **sizes, within_group=True),
            "prepared": prepared(
                tmp_path / "set", **sizes, fractions=(0.34, 0.33, 0.33), resident=True
            ).train,
            "omniglot": omniglot(tmp_path, **sizes, rotate="classes").train,
            "glyphs": glyphs(cache=tmp_path / "glyphs", **sizes).test,
            "sine": Sine(frequency=(0.8, 1.2)),
            "sine groups": SineGroups(),
            "linear": LinearGaussian(mean=mean),
        }
        rows = torch.zeros(3, dtype=torch.int64, device="cpu")
        strokes = variants(outlined, rows, generator(0))
        return {"strokes": [strokes]} | {
            name: [*source.sample(generator(0, name), 3).support[:2]]
            for name, source in sources.items()
        }

    expected = drawn()
    try:
        torch.set_default_device("meta")
        found = drawn()
    finally:
        torch.set_default_device(None)
    for name, tensors in expected.items():
        for there, here in zip(found[name], tensors, strict=True):
            assert there.device.type == "cpu" and torch.equal(there, here), name

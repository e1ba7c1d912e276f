import unicodedata

import numpy as np
import pytest
import torch

from innerloop.core.streams import generator
from innerloop.data.images import glyphs as module
from innerloop.data.images.glyph_classes import (
    FACES,
    SCRIPTS,
    characters,
    font_folder,
    script,
)
from innerloop.data.images.glyph_render import distinct_characters, outlines, variants
from innerloop.data.images.glyphs import glyph_pool, glyphs, render, split_by_script
from innerloop.data.pool import ClassPool


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("glyphs")


@pytest.fixture(scope="module")
def pool(cache) -> ClassPool:
    return glyph_pool(cache=cache)


def fonts(*names):
    return [font_folder() / name for name in names]


@pytest.mark.parametrize(
    ("character", "group"),
    [
        ("A", "Latin"),
        ("ж", "Cyrillic"),
        ("Ω", "Greek"),
        ("ش", "Arabic"),
        ("א", "Hebrew"),
        ("ⵣ", "Tifinagh"),
        ("ᐃ", "Canadian Syllabics"),
        ("\U0001d504", "Fraktur"),
        ("→", "Arrows"),
        ("7", "Digits and punctuation"),
        ("é", None),  # a letter with an accent is no class of its own
        ("\u0301", None),  # a combining mark
        (" ", None),
        ("\ue000", None),  # private use
    ],
)
def test_scripts(character, group):
    assert script(character) == group


def test_a_letter_shared_by_scripts_is_one_class(pool):
    names = set(pool.class_names)
    assert "U+0041 LATIN CAPITAL LETTER A" in names
    assert "U+0391 GREEK CAPITAL LETTER ALPHA" not in names
    assert "U+0410 CYRILLIC CAPITAL LETTER A" not in names
    assert (
        "U+0393 GREEK CAPITAL LETTER GAMMA" in names
        or "U+0413 CYRILLIC CAPITAL LETTER GHE" in names
    )


def test_thousands_of_classes_with_twenty_examples(pool):
    assert pool.n_classes > 2000 and (pool.counts == 20).all()
    assert pool.x_shape == (1, 28, 28) and pool.images.dtype == torch.uint8
    share = (pool.images.float() / 255).flatten(1).mean(1)
    assert share.min() > 0.002 and share.max() < 0.8  # neither blank nor a filled square
    assert 0.1 < share.mean() < 0.3  # ink is 1, paper 0


def test_splits_share_no_script(pool):
    parts = split_by_script(pool)
    groups = {name: {p.group_names[i] for i in p.class_group.tolist()} for name, p in parts.items()}
    assert "Latin" in groups["train"] and "Greek" in groups["validation"]
    assert {"Tifinagh", "Hebrew", "Georgian", "Canadian Syllabics"} <= groups["test"]
    assert not groups["train"] & groups["test"] and not groups["train"] & groups["validation"]
    assert parts["train"].n_classes > 1500 and parts["test"].n_classes > 400
    assert parts["validation"].n_classes > 50


def test_variants_of_a_class_differ_but_look_alike(pool):
    """Nearest neighbour on pixels is far above chance and far below perfect."""
    test = split_by_script(pool)["test"]
    from innerloop.data.images.episodes import Episodes

    task = Episodes(test, way=5, shot=1, queries=5).sample(generator(0), 200)
    distance = torch.cdist(task.query.x.flatten(2), task.support.x.flatten(2))
    guess = task.support.y.gather(1, distance.argmin(2))
    accuracy = (guess == task.query.y).float().mean()
    assert 0.4 < accuracy < 0.9


def test_the_cache_is_used_and_rendering_is_a_function_of_the_seed(pool, cache, monkeypatch):
    monkeypatch.setattr(module, "render", lambda *_: pytest.fail("rendered although cached"))
    assert torch.equal(glyph_pool(cache=cache).images, pool.images)
    assert len(list(cache.iterdir())) == 1


def test_rendering_repeats_itself_and_follows_the_seed():
    faces = fonts("DejaVuSans-Oblique.ttf", "DejaVuSerif-Bold.ttf")
    a, b, c = render(faces, 0, 2), render(faces, 0, 2), render(faces, 1, 2)
    assert all(np.array_equal(a[key], b[key]) for key in a)
    assert np.array_equal(a["code_point"], c["code_point"])
    assert not np.array_equal(a["images"], c["images"])


def tiny(*_):
    """What `render` returns, for three scripts."""
    names = "abcdefαβγδεζאבגדהז"
    groups = [str(script(c)) for c in names]
    order = list(dict.fromkeys(groups))
    return {
        "images": np.random.default_rng(0).integers(0, 255, (18, 20, 28, 28), np.uint8),
        "code_point": np.array([ord(c) for c in names]),
        "class_group": np.array([order.index(g) for g in groups]),
        "group_names": np.array(order),
    }


def test_a_damaged_cache_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "render", tiny)
    first = glyph_pool(cache=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    assert torch.equal(glyph_pool(cache=tmp_path).images, first.images)
    assert len(path.read_bytes()) > 1000


def test_a_cache_that_cannot_be_written_is_said_and_survived(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "render", tiny)
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="could not be kept in"):
        pool = glyph_pool(cache=tmp_path / "file" / "glyphs")
    assert pool.n_classes == 18


def test_tasks_of_one_script(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "render", tiny)
    splits = glyphs(way=5, shot=1, queries=15, within_script=True, cache=tmp_path)
    task = splits.test.sample(generator(0), 3)
    assert task.query.x.shape == (3, 75, 1, 28, 28)
    assert splits.test.describe()["source"] == "glyphs (seed 0)"
    assert splits.validation.pool.group_names[int(splits.validation.pool.class_group[0])] == "Greek"


def test_missing_fonts_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "font_folder", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"16 font files .* DejaVuSans\.ttf.*matplotlib"):
        glyph_pool(cache=tmp_path)


def test_blank_and_missing_glyphs_are_no_pictures():
    face = fonts("DejaVuSans.ttf")[0]
    pictures, owner, _ = outlines(
        {"A": [face.name], "\u2003": [face.name], "\uffff": [face.name]}, face.parent
    )
    assert owner.tolist() == [0] and pictures.shape == (1, 64, 64)
    rows, columns = np.nonzero(pictures[0] > 127)
    assert max(np.ptp(rows), np.ptp(columns)) in (42, 43)  # fills the box of 44 pixels


def test_of_two_that_look_alike_the_first_is_kept():
    found = {c: ["DejaVuSans.ttf"] for c in "AX\u0410"}  # the last is Cyrillic
    keep = distinct_characters(*outlines(found, font_folder()), compared=1, n=3)
    assert keep.tolist() == [True, True, False]


def test_preferred_order_puts_training_scripts_first():
    found = list(characters(fonts(*FACES[:3])))
    position = {c: i for i, c in enumerate(found)}
    assert position["A"] < position["→"] < position["Ω"] < position["א"]
    assert all(unicodedata.category(c)[0] in "LNPS" for c in found)
    assert {script(c) for c in found} >= set(SCRIPTS.values()) - {"Lisu", "Ogham"}


def test_variants_change_pen_place_and_slant():
    pictures, _, _ = outlines({"L": ["DejaVuSans.ttf"]}, font_folder())
    drawn = variants(torch.from_numpy(pictures), torch.zeros(300, dtype=torch.int64), generator(0))
    ink = drawn.flatten(1).float().mean(1)
    assert ink.max() > 2 * ink.min()
    rows = torch.arange(28.0)
    centre = (drawn.float().sum(2) * rows).sum(1) / drawn.float().sum((1, 2))
    assert centre.std() > 0.5

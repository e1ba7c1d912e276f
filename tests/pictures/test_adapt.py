"""A person's own pictures: what comes out, and what is refused before anything is written."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import innerloop
from innerloop import Method
from innerloop.data.images.files import BadImage
from innerloop.learn.proto import ProtoClassifier
from innerloop.pictures import AdaptReport, adapt, adapt_images, contact_sheet, load_adapted
from innerloop.pictures.photos import read_photos
from innerloop.pictures.sheet import Prediction

SIZE = 12
GREYS = {"dark": 30, "light": 220, "middle": 128}


def picture(path: Path, grey: int, seed: int, size: tuple[int, int] = (20, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 20, (*size, 3))
    Image.fromarray((grey + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """support/CLASS and query/CLASS with 2 to 4 and 3 pictures of three grey levels."""
    for k, (name, grey) in enumerate(GREYS.items()):
        for i in range(2 + k):
            picture(tmp_path / "support" / name / f"{i}.png", grey, 10 * k + i)
        for i in range(3):
            picture(tmp_path / "query" / name / f"{i}.jpg", grey, 100 + 10 * k + i)
    (tmp_path / "support" / "dark" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "query" / "Thumbs.db").write_bytes(b"x")
    return tmp_path


def net(outputs: int = 5, norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(1, 4, 3)]
    layers += [nn.BatchNorm2d(4)] if norm else []
    return nn.Sequential(*layers, nn.AvgPool2d(10), nn.Flatten(), nn.Linear(4, outputs))


@pytest.fixture
def method() -> Method:
    return innerloop.methods.maml(net(), lr=1.0, steps=200)


def run(method: Method, root: Path, **changes: object) -> AdaptReport:
    given = {"support_dir": root / "support", "query": root / "query", "out": root / "out"}
    settings = {"size": SIZE, "channels": 1, **changes}
    return adapt_images(method, **{**given, **settings})  # type: ignore[arg-type]


def test_all_four_files(method: Method, photos: Path) -> None:
    report = run(method, photos, model_config={"kind": "tiny"})
    assert report.classes == ["dark", "light", "middle"]
    assert report.support == {"dark": 2, "light": 3, "middle": 4}
    assert report.accuracy == 1.0 and report.support_accuracy == 1.0
    assert "5 outputs and 3 classes" in report.notes[0]
    out = photos / "out"
    names = ["adapted.json", "adapted.program.json", "adapted.safetensors"]
    assert sorted(p.name for p in out.iterdir()) == [*names, "contact_sheet.png", "predictions.csv"]
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["true"] for row in rows] == ["dark"] * 3 + ["light"] * 3 + ["middle"] * 3
    assert all(row["predicted"] == row["true"] for row in rows)
    assert all(1 / 3 < float(row["probability"]) <= 1 for row in rows), "restricted to three"
    about = json.loads((out / "adapted.json").read_text(encoding="utf-8"))
    assert about["classes"] == report.classes and about["model"] == {"kind": "tiny"}
    assert about["input"]["size"] == SIZE and about["method"] == method.describe()
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 800
    assert sorted(p.name for p in photos.iterdir()) == ["out", "query", "support"], "no draft left"


@pytest.mark.parametrize("norm", ["batch", "support", "running"])
def test_the_saved_model_predicts_the_same(photos: Path, norm: str) -> None:
    trained = net(3, norm=True)
    trained(torch.rand(8, 1, SIZE, SIZE))  # running statistics that are not the initial ones
    report = run(innerloop.methods.maml(trained, lr=0.5, steps=20, norm=norm), photos)
    fresh = net(3, norm=True)
    assert load_adapted(photos / "out", fresh) == report.classes
    x = read_photos([p.file for p in report.predictions], SIZE, 1, False)
    with torch.no_grad():
        probability = fresh(x).softmax(1).max(1)
    predicted = [report.classes[k] for k in probability.indices.tolist()]
    assert predicted == [p.predicted for p in report.predictions]
    expected = [p.probability for p in report.predictions]
    assert probability.values.tolist() == pytest.approx(expected, abs=1e-5)
    transductive = any("transductive" in note for note in report.notes)
    assert transductive == report.depends_on_neighbours == (norm == "batch")
    assert report.norm == norm
    about = json.loads((photos / "out" / "adapted.json").read_text(encoding="utf-8"))
    assert (about["norm"], about["depends_on_neighbours"]) == (norm, norm == "batch")
    assert about["notes"] == report.notes


def test_how_many_answers_depend_on_their_neighbours(photos: Path) -> None:
    """Pictures of one grey level each, told apart by it: alone, the batch statistics hide it."""
    torch.manual_seed(0)
    method = innerloop.methods.maml(net(3, norm=True), lr=1.0, steps=100, norm="batch")
    report = run(method, photos)
    model = innerloop.load(photos / "out")
    with torch.no_grad():
        alone = [
            report.classes[int(model(model.preprocess(p.file)[None]).argmax())]
            for p in report.predictions
        ]
    changed = sum(a != p.predicted for a, p in zip(alone, report.predictions, strict=True))
    assert changed > 0
    (note,) = report.notes
    assert f"{changed} of 9 would be another for the picture alone. A model trained with" in note
    (note,) = run(method, photos, query=report.predictions[0].file, out=photos / "one").notes
    assert "of 1" not in note and "norm=support answers for each picture by itself" in note


def test_pictures_that_cannot_be_asked_alone(photos: Path) -> None:
    torch.manual_seed(0)
    flat = nn.Sequential(nn.AvgPool2d(6), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3))
    (note,) = run(innerloop.methods.maml(flat, lr=0.1, steps=1, norm="batch"), photos).notes
    assert "no picture can be classified alone" in note


def test_protonet_takes_any_number_of_classes(photos: Path) -> None:
    def features() -> nn.Module:
        return nn.Sequential(nn.AvgPool2d(SIZE), nn.Flatten(), nn.Linear(1, 2))

    torch.manual_seed(0)
    report = run(innerloop.methods.protonet(features()), photos)
    assert report.accuracy == 1.0 and report.notes == []
    classifier = ProtoClassifier(features(), torch.empty(3, 2))
    assert load_adapted(photos / "out", classifier) == report.classes
    x = read_photos([report.predictions[4].file], SIZE, 1, False)
    assert report.classes[int(classifier(x).argmax())] == report.predictions[4].predicted


def test_tied_weights_can_be_saved(photos: Path) -> None:
    torch.manual_seed(0)
    square = nn.Linear(4, 4)
    tied = nn.Sequential(nn.AvgPool2d(6), nn.Flatten(), square, nn.ReLU(), square, nn.Linear(4, 3))
    run(innerloop.methods.maml(tied, lr=0.1, steps=2), photos)
    load_adapted(photos / "out", tied)


def test_flat_folder_and_list_of_files(method: Method, photos: Path) -> None:
    files = [
        picture(photos / "flat" / name, grey, i)
        for i, (name, grey) in enumerate([("b.png", 30), ("a.png", 220)])
    ]
    report = run(method, photos, query=photos / "flat")
    assert report.accuracy is None
    assert [(p.file.name, p.predicted) for p in report.predictions] == [
        ("a.png", "light"),
        ("b.png", "dark"),
    ]
    assert all(p.true is None and p.right is None for p in report.predictions)
    report = run(method, photos, query=[str(path) for path in files], out=photos / "out2")
    assert [p.file.name for p in report.predictions] == ["b.png", "a.png"]
    report = run(method, photos, query=files[0], out=photos / "out3")
    assert len(report.predictions) == 1


def test_invert_is_the_negative(photos: Path) -> None:
    files = [photos / "support" / "dark" / "0.png"]
    x = read_photos(files, SIZE, 1, False)
    assert torch.allclose(read_photos(files, SIZE, 1, True), 1 - x)
    assert x.shape == (1, 1, SIZE, SIZE) and 0 < float(x.mean()) < 0.3


def _empty_class(root: Path) -> None:
    (root / "support" / "new").mkdir()


def _one_class(root: Path) -> None:
    for name in ("light", "middle"):
        (root / "support" / name).rename(root / name)


def _text_as_png(root: Path) -> None:
    (root / "support" / "dark" / "note.png").write_text("not an image")


def _cut_query(root: Path) -> None:
    path = root / "query" / "light" / "1.jpg"
    path.write_bytes(path.read_bytes()[:100])


def _note(root: Path) -> None:
    (root / "support" / "dark" / "note.txt").write_text("?")


def _loose(root: Path) -> None:
    picture(root / "support" / "loose.png", 1, 1)


def _nested(root: Path) -> None:
    picture(root / "support" / "dark" / "more" / "a.png", 1, 1)


def _more_classes(root: Path) -> None:
    for i in range(3):
        picture(root / "support" / f"class{i}" / "a.png", 50 * i, i)


def _unknown_query(root: Path) -> None:
    picture(root / "query" / "red" / "a.png", 1, 1)


def _mixed_query(root: Path) -> None:
    picture(root / "query" / "a.png", 1, 1)


def _no_queries(root: Path) -> None:
    for path in (root / "query").rglob("*.jpg"):
        path.unlink()


def _escape_code(root: Path) -> None:
    picture(root / "support" / "\x1b[31mred" / "a.png", 1, 1)


def _line_end(root: Path) -> None:
    picture(root / "support" / "a\nb" / "a.png", 1, 1)


def _turned_name(root: Path) -> None:
    picture(root / "query" / "dark" / "a\u202egnp.exe.png", 1, 1)


def _no_utf8(root: Path) -> None:
    picture(root / "support" / "dark" / "a.png", 1, 1).rename(
        root / "support" / "dark" / os.fsdecode(b"\xff.png")
    )


def _out_in_use(root: Path) -> None:
    (root / "out").mkdir()
    (root / "out" / "thesis.txt").write_text("mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_empty_class, "class folder .*new is empty"),
        (_one_class, r"one class only \('dark'\): a classifier needs at least two"),
        (_text_as_png, "1 of 10 files cannot be used: .*note.png: not a readable image"),
        (_cut_query, "1 of 9 files cannot be used: .*1.jpg"),
        (_note, "'note.txt' in .*dark is not an image by its name: remove it, or convert"),
        (_loose, "holds the file 'loose.png' beside class folders"),
        (_nested, r"dark holds folders \('more'\)"),
        (_more_classes, "6 classes .* trained 5-way .* at most 5 class folders"),
        (_unknown_query, r"no support class: 'red' \(classes: dark, light, middle\)"),
        (_mixed_query, "holds the file 'a.png' beside folders"),
        (_no_queries, "class folder .*query/dark is empty"),
        (_escape_code, r"name '\\x1b\[31mred' in .*support holds signs that cannot be printed"),
        (_line_end, r"name 'a\\nb' in .* \(1 such names\): rename it"),
        (_turned_name, r"name 'a\\u202egnp.exe.png' in .*dark holds signs"),
        (_no_utf8, r"name '\\udcff.png' in .*dark holds signs"),
        (_out_in_use, "out exists and is not empty: nothing is overwritten"),
    ],
)
def test_refuses_before_writing(
    method: Method, photos: Path, change: Callable[[Path], None], message: str
) -> None:
    change(photos)
    before = sorted(photos.rglob("*"))
    with pytest.raises(ValueError, match=message):
        run(method, photos)
    assert sorted(photos.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"support_dir": "nowhere"}, "No support folder nowhere: expected one sub-folder per"),
        ({"query": "nowhere"}, "No query folder or file nowhere"),
        ({"query": []}, "No query files given"),
        ({"query": ["a.png", "b.png"]}, r"No query file a.png \(2 of 2 missing\)"),
        ({"channels": 2}, r"channels must be 1 \(grey\) or 3 \(RGB\), got 2"),
    ],
)
def test_refuses_bad_arguments(
    method: Method, photos: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(method, photos, **changes)
    assert not (photos / "out").exists()


def test_refuses_places_and_methods_that_cannot_work(method: Method, photos: Path) -> None:
    with pytest.raises(ValueError, match="lies inside"):
        run(method, photos, out=photos / "query" / "out")
    with pytest.raises(ValueError, match="has no class folders"):
        run(method, photos, support_dir=photos / "support" / "dark")
    (photos / "void").mkdir()
    with pytest.raises(ValueError, match=r"query folder .*void is empty"):
        run(method, photos, query=photos / "void")
    regression = innerloop.methods.maml(net(1), lr=0.1, steps=1, loss="mse")
    with pytest.raises(ValueError, match="maml was trained for regression"):
        run(regression, photos)
    wild = innerloop.methods.maml(net(), lr=1e30, steps=3)
    with pytest.raises(ValueError, match="weights that are not finite"):
        run(wild, photos)
    (photos / "elsewhere").mkdir()
    (photos / "link").symlink_to("elsewhere")
    with pytest.raises(ValueError, match="link is a symbolic link"):
        run(method, photos, out=photos / "link")
    assert not (photos / "out").exists()


def test_names_are_neither_formulas_nor_markup(photos: Path) -> None:
    for old, new in (("dark", "=1+1"), ("light", "[bold]&<b>$x$"), ("middle", "-mittel é 😀")):
        for part in ("support", "query"):
            (photos / part / old).rename(photos / part / new)
    report = run(innerloop.methods.maml(net(3), lr=1.0, steps=200), photos)
    assert report.classes == ["-mittel é 😀", "=1+1", "[bold]&<b>$x$"]
    with (photos / "out" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["true"] for row in rows} == {"'-mittel é 😀", "'=1+1", "[bold]&<b>$x$"}
    assert {row["predicted"] for row in rows} <= {row["true"] for row in rows}
    for sign in "=+-@\t\r":
        text = adapt._csv([Prediction(Path(f"{sign}cmd.png"), f"{sign}a", 0.5, None)])
        (row,) = csv.DictReader(io.StringIO(text))
        assert (row["file"], row["predicted"]) == (f"'{sign}cmd.png", f"'{sign}a")


def test_weights_that_are_not_finite_are_never_saved(photos: Path) -> None:
    """A root at zero has no slope, and the outputs hide what became of its argument."""

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(SIZE * SIZE, 3)
            self.root = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(1)) + self.root.sqrt().nan_to_num()

    method = innerloop.methods.maml(Hidden(), lr=0.1, steps=2)
    with pytest.raises(ValueError, match=r"not finite \(in root\)"):
        run(method, photos)
    assert not (photos / "out").exists()


def test_a_mask_of_infinities_is_no_divergence(photos: Path) -> None:
    masked = net(3)
    masked.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    assert run(innerloop.methods.maml(masked, lr=0.1, steps=1), photos).out.is_dir()


def test_the_sheet_opens_no_other_formats(tmp_path: Path) -> None:
    """PostScript under a picture's name would be handed to an interpreter of programs."""
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshow\n")
    with Image.open(path) as opened:
        assert opened.format == "EPS", "Pillow goes by the content"
    with pytest.raises(BadImage, match="its content is not"):
        contact_sheet([Prediction(path, "a", 0.5, None)], ["a"], "one")


def test_all_files_or_none(method: Method, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise OSError("No space left on device")

    monkeypatch.setattr(adapt, "contact_sheet", full)
    with pytest.raises(OSError, match="No space left"):
        run(method, photos)
    assert sorted(p.name for p in photos.iterdir()) == ["query", "support"]


def test_load_refuses(method: Method, photos: Path) -> None:
    with pytest.raises(ValueError, match="holds no adapted model"):
        load_adapted(photos, net())
    run(method, photos)
    with pytest.raises(ValueError, match="does not fit Sequential"):
        load_adapted(photos / "out", net(3))
    path = photos / "out" / "adapted.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="holds no adapted model"):
        load_adapted(photos / "out", net())


def test_contact_sheet_of_many_says_what_it_leaves_out(tmp_path: Path) -> None:
    path = picture(tmp_path / "a very long file name that will not fit.png", 100, 0, (40, 10))
    few = [Prediction(path, "a", 0.5, None), Prediction(path, "b" * 300, 0.9, "a")]
    sheet = _opened(contact_sheet(few, ["a", "b" * 300], "two"))
    many = [Prediction(path, "a", i / 500, "b") for i in range(500)]
    tall = _opened(contact_sheet(many, ["a", "b"], "many"))
    assert sheet.width == tall.width
    assert tall.height < 60 + 34 + 50 * 158 + 60, "400 of 500 in rows of eight"


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))

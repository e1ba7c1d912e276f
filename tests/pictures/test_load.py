"""An adapted model comes back from its folder in one line, whatever method made it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import innerloop
from innerloop import Method, methods
from innerloop.models import Conv4, resnet12
from innerloop.pictures import AdaptedModel, AdaptReport, adapt_images, load_adapted

SIZE = 16
GREYS = {"dark": 40, "light": 220, "middle": 130}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """support/CLASS and query/CLASS with 2 and 3 grey pictures of three levels."""
    rng = np.random.default_rng(0)
    for part, count in (("support", 2), ("query", 3)):
        for name, grey in GREYS.items():
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = (grey + rng.integers(-30, 30, (18, 20))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


def run(method: Method, root: Path, **settings: object) -> AdaptReport:
    given = {"size": (SIZE, SIZE), "channels": 1, **settings}
    return adapt_images(method, root / "support", root / "query", root / "out", **given)  # type: ignore[arg-type]


def body() -> nn.Module:
    torch.manual_seed(0)
    return Conv4(None, channels=1, size=SIZE, filters=4)


def whole() -> nn.Module:
    torch.manual_seed(0)
    return Conv4(4, channels=1, size=SIZE, filters=4)


FAMILIES: dict[str, Callable[[], Method]] = {
    "maml, batch": lambda: methods.maml(whole(), lr=0.1, steps=2, norm="batch"),
    "maml, support": lambda: methods.maml(whole(), lr=0.1, steps=2, norm="support"),
    "anil": lambda: methods.anil(whole(), lr=0.1, steps=2),
    "meta_sgd": lambda: methods.meta_sgd(whole(), lr=0.1, steps=2),
    "maml_plus_plus": lambda: methods.maml_plus_plus(whole(), lr=0.1, steps=2),
    "proto_maml": lambda: methods.proto_maml(whole(), lr=0.1, steps=2),
    "cavia": lambda: methods.cavia(whole(), lr=0.1, steps=2),
    "bias_transformation": lambda: methods.bias_transformation(whole(), lr=0.1, steps=2),
    "protonet": lambda: methods.protonet(body(), norm="support"),
    "matching": lambda: methods.matching(body(), norm="support"),
    "matching in context": lambda: methods.matching(body(), reads=2),
    "nil": lambda: methods.nil(whole()),
    "r2d2": lambda: methods.r2d2(body()),
    "lrd2": lambda: methods.lrd2(body()),
    "metaoptnet": lambda: methods.metaoptnet(body()),
    "resnet12": lambda: methods.protonet(resnet12(None, channels=1, size=SIZE), norm="support"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loaded_model_answers_as_adapt_did(family: str, photos: Path) -> None:
    report = run(FAMILIES[family](), photos)
    model = innerloop.load(photos / "out")
    assert isinstance(model, AdaptedModel) and not model.training
    assert model.classes == report.classes == ["dark", "light", "middle"]
    assert model.depends_on_neighbours == report.depends_on_neighbours
    x = torch.stack([model.preprocess(p.file) for p in report.predictions])
    with torch.no_grad():
        probability = model(x).double().softmax(1)
    assert probability.shape == (9, 3), "the given classes only"
    found = probability.max(1)
    assert [model.classes[k] for k in found.indices] == [p.predicted for p in report.predictions]
    wanted = [p.probability for p in report.predictions]
    assert found.values.tolist() == pytest.approx(wanted, abs=1e-6)


def test_it_needs_no_class_of_the_network_and_fits_it(photos: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(SIZE * SIZE, 8)
            self.tied = nn.Linear(8, 8)
            self.again = self.tied
            self.last = nn.Linear(8, 3)
            self.register_buffer("shift", torch.ones(8), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.nn.functional.gelu(self.first(x.flatten(1)) + self.shift)
            h = self.again(self.tied(h).relu() * torch.tensor([0.5]))
            return self.last(h.view(len(x), 2, -1).transpose(1, 2).reshape(x.shape[0], -1))

    torch.manual_seed(0)
    report = run(methods.maml(Own(), lr=0.1, steps=2), photos)
    model = innerloop.load(photos / "out")
    fresh = Own()
    assert load_adapted(photos / "out", fresh) == model.classes
    for n in (1, 2, 7):
        x = torch.rand(n, 1, SIZE, SIZE)
        torch.testing.assert_close(model(x), fresh(x), rtol=1e-5, atol=1e-6)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters()), "it can be trained further"
    assert report.accuracy is not None


def test_pictures_come_in_as_files_or_from_pillow(photos: Path) -> None:
    run(FAMILIES["r2d2"](), photos, invert=True)
    preprocess = innerloop.load(photos / "out").preprocess
    rng = np.random.default_rng(1)
    path = photos / "a.png"
    for mode, depth in (("L", 1), ("RGB", 3), ("RGBA", 4), ("LA", 2), ("P", 3)):
        shape = (9, 11) if depth == 1 else (9, 11, depth)
        image = Image.fromarray(
            rng.integers(0, 255, shape).astype(np.uint8), mode if mode != "P" else "RGB"
        )
        if mode == "P":
            image = image.quantize(8)
            image.info["transparency"] = 0
        image.save(path)
        x = preprocess(str(path))
        assert x.shape == (1, SIZE, SIZE) and x.dtype == torch.float32
        with Image.open(path) as opened:
            torch.testing.assert_close(preprocess(opened), x, rtol=0, atol=0)
    turned = Image.new("L", (4, 2))
    turned.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned by a quarter
    turned.save(path, exif=exif)
    with Image.open(path) as opened:
        torch.testing.assert_close(preprocess(opened), preprocess(path), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"1 of 1 files cannot be used: .*no image file"):
        preprocess(photos / "nowhere.png")


def test_a_network_that_branches_on_values_says_so(
    photos: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(SIZE * SIZE, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.layer(x.flatten(1))
            return h if h.sum() > 0 else -h

    run(methods.maml(Branching(), lr=0.1, steps=1, chunk=1), photos)
    assert "innerloop.load cannot open" in caplog.text
    assert capfd.readouterr() == ("", ""), "what the exporter prints is nobody's business"
    with pytest.raises(ValueError, match=r"no program .*torch\.export.*load_adapted\(FOLDER"):
        innerloop.load(photos / "out")
    assert load_adapted(photos / "out", Branching()) == ["dark", "light", "middle"]


@pytest.mark.parametrize("name", ["adapted.safetensors", "adapted.program.json"])
def test_a_changed_bit_is_noticed(photos: Path, name: str) -> None:
    run(FAMILIES["protonet"](), photos)
    path = photos / "out" / name
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="its digest differs"):
        innerloop.load(photos / "out")


def test_refuses_other_folders(photos: Path) -> None:
    with pytest.raises(ValueError, match="holds no adapted model"):
        innerloop.load(photos)
    run(FAMILIES["protonet"](), photos)
    path = photos / "out" / "adapted.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**about, "input": {}}))
    with pytest.raises(ValueError, match="is damaged: 'size'"):
        innerloop.load(photos / "out")
    for content in ("[1]", '{"format": "other"}', "[" * 100_000):
        path.write_text(content)
        with pytest.raises(ValueError, match="holds no adapted model"):
            innerloop.load(photos / "out")
    old = {k: v for k, v in about.items() if k not in ("digests", "depends_on_neighbours")}
    path.write_text(json.dumps({**old, "format": "innerloop-adapted-1"}))
    with pytest.raises(ValueError, match="written by an earlier version"):
        innerloop.load(photos / "out")

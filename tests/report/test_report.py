"""The report: one page, nothing loaded from elsewhere, every text escaped."""

from __future__ import annotations

import base64
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import innerloop
from innerloop import Method
from innerloop.data.source import Source
from innerloop.data.values.synthetic import Sine
from innerloop.evaluate import EvaluationResult, evaluate
from innerloop.models import mlp
from innerloop.report import write_report

Make = Callable[..., EvaluationResult]
RECORDS = [{"event": "train", "step": s, "loss": 1.0 / s, "accuracy": 0.5} for s in (1, 2, 3)]


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether every tag is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self) -> list[bytes]:
        found = [attrs["src"] or "" for tag, attrs in self.tags if tag == "img"]
        return [base64.b64decode(src.partition("base64,")[2]) for src in found]


def test_numbers_and_settings(make_result: Make, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    easy = rng.random((3, 50)) * np.array([[0.3], [0.9], [1.0]])
    result, scratch = make_result(easy), make_result(easy[:1] / 2, method={"method": "scratch"})
    path = write_report(
        tmp_path / "report.html",
        result,
        title="omniglot-5w1s/maml",
        records=RECORDS,
        baselines={"from scratch": scratch},
        settings={"train": {"lr": 0.001, "deep": {"er": [1, 2]}}, "name": "x"},
    )
    page = Page(path)
    assert not page.open
    for text in (
        *(result.text(s) for s in range(3)),
        scratch.text(),
        "from scratch, 0 steps",
        "transductive",
        "Queries per class: 4.",
        "maml is better",
        "train.deep.er",
        "[1, 2]",
        result.created,
        result.digest,
    ):
        assert text in page.text, text
    assert len(page.images()) == 3, "score by step, histogram, learning curves"
    assert all(b"<svg" in image for image in page.images())


def test_the_first_line_says_what_beats_the_method(make_result: Make, tmp_path: Path) -> None:
    hard = np.linspace(0.2, 0.8, 30)
    result = make_result([hard])
    baselines = {
        "scratch": make_result([hard + 0.1 + hard / 100]),
        "worse": make_result([hard / 2]),
    }
    path = write_report(tmp_path / "r.html", result, title="t", baselines=baselines)
    text = " ".join(Page(path).text.split())
    begin = text.index("A baseline beats maml on the same 30 tasks: scratch has 60.50 ±")
    assert begin < text.index("30 test tasks ·"), "before the title's line"
    assert "maml 50.00 ±" in text and "Meta-learning does not pay here." in text
    assert "worse has" not in text and "scratch is better" in text and "maml is better" in text
    both = {"pretrained": make_result([hard + 0.2]), "scratch": make_result([hard + 0.3])}
    text = Page(write_report(path, result, title="t", baselines=both)).text
    assert "Baselines beat maml" in text and "; scratch has" in text
    text = Page(write_report(path, make_result([hard]), title="t")).text
    assert "eats maml" not in text and "eat maml" not in text, "nothing beats it: nothing is said"


@pytest.mark.parametrize("lr", [1e4, 1e30])
def test_a_run_that_diverges_has_a_report(tmp_path: Path, lr: float) -> None:
    torch.manual_seed(0)
    method = innerloop.methods.maml(mlp(1, 1, (4,)), lr=lr, steps=3, loss="mse")
    source = Sine(shot=5, queries=5)
    result = evaluate(method, source, 6, steps=3)
    assert result.diverged()
    path = write_report(
        tmp_path / "r.html",
        result,
        title="t",
        method=method,
        source=source,
        baselines={"b": result},
    )
    text = Page(path).text
    assert f"maml diverged: its score is not finite on {result.diverged()} of 6 tasks" in text
    assert "diverged on" in text and "both diverged" in text and "nan" not in text


def test_tests_of_fewer_classes_than_the_model_has(blobs: Source, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 5)).double()
    method = innerloop.methods.maml(net, lr=0.1, steps=1)
    source = type(blobs)(way=2)
    result = evaluate(method, source, 8, steps=1)
    page = Page(write_report(tmp_path / "r.html", result, title="t", method=method, source=source))
    assert "Sample episodes" in page.text


def test_nothing_is_loaded_and_everything_escaped(make_result: Make, tmp_path: Path) -> None:
    evil = '<script>alert(1)</script>"&'
    result = make_result(
        [[0.2, 0.4], [0.9, 1.0]],
        method={"method": evil, "norm": "support"},
        source={"source": evil, "way": evil},
    )
    page = Page(write_report(tmp_path / "r.html", result, title=evil, settings={evil: evil}))
    assert page.text.count(evil) >= 6, "title, headings and settings show it as text"
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    for tag, attrs in page.tags:
        for name in ("src", "href"):
            if name in attrs:
                assert (attrs[name] or "").startswith("data:image/"), (tag, name)
    assert "default-src 'none'" in str(page.tags)
    assert "not transductive" in page.text


def test_with_pictures_of_images(maml: Method, blobs: Source, tmp_path: Path) -> None:
    result = evaluate(maml, blobs, 8, steps=3)
    path = write_report(tmp_path / "r.html", result, title="t", method=maml, source=blobs)
    page = Page(path)
    kinds = [image[:4] for image in page.images()]
    assert len(kinds) == 5 and kinds.count(b"\x89PNG") == 1
    assert "Sample episodes" in page.text and "relative to its size" in page.text


def test_with_pictures_of_curves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    method = innerloop.methods.maml(mlp(1, 1, (4,)), lr=0.01, steps=1, loss="mse")
    source = Sine(shot=5, queries=5)
    result = evaluate(method, source, 5, steps=2)
    page = Page(write_report(tmp_path / "r.html", result, title="t", method=method, source=source))
    assert len(page.images()) == 5
    assert "Fitted curves" in page.text and "2000 steps on 100 noise-free points" in page.text
    assert "Queries per class" not in page.text


def test_a_learner_without_steps_has_no_path(blobs: Source, tmp_path: Path) -> None:
    method = innerloop.methods.protonet(nn.Sequential(nn.Flatten(), nn.Linear(36, 4)).double())
    result = evaluate(method, blobs, 5)
    page = Page(write_report(tmp_path / "r.html", result, title="t", method=method, source=blobs))
    assert "Parameter" not in page.text and len(page.images()) == 3


def test_refuses(make_result: Make, maml: Method, tmp_path: Path) -> None:
    result = make_result([[0.5, 0.6]])
    with pytest.raises(ValueError, match="both method and source"):
        write_report(tmp_path / "r.html", result, title="t", method=maml)
    other = make_result([[0.5, 0.6]], seed=1)
    with pytest.raises(ValueError, match="not evaluated on the same tasks"):
        write_report(tmp_path / "r.html", result, title="t", baselines={"b": other})
    assert not list(tmp_path.iterdir()), "nothing is written on an error"


def test_a_baseline_of_the_same_name_stays_beside_it(make_result: Make, tmp_path: Path) -> None:
    one, two = make_result([[0.5, 0.6]]), make_result([[0.1, 0.2]])
    page = Page(write_report(tmp_path / "r.html", one, title="t", baselines={"maml": two}))
    assert one.text() in page.text and two.text() in page.text
    assert "maml (baseline)" in page.text

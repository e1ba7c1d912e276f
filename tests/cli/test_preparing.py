"""`innerloop prepare IMAGES`, and training on what it wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from innerloop.cli import main


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six classes of five 20 x 16 PNG files each."""
    rng = np.random.default_rng(0)
    for k in range(6):
        folder = tmp_path / "images" / f"class{k}"
        folder.mkdir(parents=True)
        for i in range(5):
            pixels = np.clip(40 * k + rng.integers(0, 30, (16, 20, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "images"


def test_prepare_train_and_evaluate(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, run = tmp_path / "small", tmp_path / "run"
    assert main(["prepare", str(images), "--out", str(out), "--size", "16"]) == 0
    shown = capsys.readouterr().out
    assert f"wrote {out} (30 images of 6 classes, 0.00 GB)" in shown
    assert f"next: innerloop train folder-5w1s/maml --data prepared --data.root {out}" in shown
    words = (
        "train folder-5w1s/maml --data prepared --data.way 2 --data.queries 2 --model.filters 4 "
        "--data.fractions [0.34,0.33,0.33] --method.lr 0.1 --evaluate.steps 2 --model.blocks 2 "
        "--train.iterations 2 --train.meta-batch 2 --train.validate-tasks 2 --train.device cpu"
    )
    assert main([*words.split(), "--data.root", str(out), "--run", str(run)]) == 0
    assert main(["evaluate", str(run), "--tasks", "4"]) == 0
    assert "folder images" in (run / "task.json").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["omniglot", "--size", "32"], "omniglot is always 28 x 28 and grey"),
        (["omniglott"], "omniglott is neither a data set nor a folder"),
        (["IMAGES"], "--out DIR, a new folder"),
        (["IMAGES", "--source", "x", "--out", "y"], "--source is for omniglot"),
        (["IMAGES", "--out", "IMAGES"], "is there already; remove it"),
        (["IMAGES", "--out", "y", "--size", "0"], "size must be at least 1 pixel, got 0"),
    ],
)
def test_mistakes_write_nothing(
    words: list[str],
    said: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", *(w.replace("IMAGES", str(images)) for w in words)]) == 2
    shown = capsys.readouterr()
    assert said in shown.err.replace("\n", " ") and "Traceback" not in shown.err
    assert [p.name for p in tmp_path.iterdir()] == ["images"]

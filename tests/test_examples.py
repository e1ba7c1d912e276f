"""The examples run, on settings that take seconds, and learn something."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from innerloop.models import Conv4

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
COVERED = {"own_loop", "own_images"}


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == COVERED


def test_own_loop(capsys: pytest.CaptureFixture[str]) -> None:
    module = example("own_loop")
    _, before, after = module.train(iterations=60, tasks=8, shot=5)
    assert after < 0.8 * before
    module.main(["--iterations", "2", "--tasks", "2"])
    assert capsys.readouterr().out.count("reading") == 5


def test_own_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Classes that differ in colour: easy enough that a few outer steps beat chance."""
    generator = torch.Generator().manual_seed(0)
    for name in range(12):
        place = tmp_path / "pictures" / f"class{name:02d}"
        place.mkdir(parents=True)
        colour = torch.randint(0, 256, (3,), generator=generator)
        for number in range(6):
            noise = torch.randint(-20, 21, (24, 24, 3), generator=generator)
            pixels = (colour + noise).clamp(0, 255).to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(place / f"{number}.png")
    out = tmp_path / "classifier.safetensors"
    sizes = ["--way", "2", "--queries", "5", "--size", "16", "--iterations", "6", "--tasks", "2"]
    module = example("own_images")
    module.main([str(tmp_path / "pictures"), *sizes, "--test-tasks", "20", "--out", str(out)])
    said = capsys.readouterr().out
    assert "unseen classes, 2-way 1-shot" in said
    assert float(said.partition("1-shot: ")[2].partition("%")[0]) > 60
    classifier = Conv4(2, channels=3, size=16, filters=32, features="flatten")
    classifier.load_state_dict(load_file(out))

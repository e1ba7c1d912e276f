"""A network, a loss and tasks of one's own through the commands, from training to comparison."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from innerloop.cli import main
from innerloop.config import load

FILE = """
import torch
from torch import nn

from innerloop.data.values.synthetic import Sine


def net():
    return nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))


def loss(outputs, y):
    return (outputs - y).abs().mean()


def tasks(device):
    return Sine(shot=4, queries=3, device=device)
"""
BUDGET = [
    *("--train.iterations", "3", "--train.meta-batch", "2", "--train.validate-tasks", "2"),
    *("--train.device", "cpu", "--evaluate.steps", "2", "--evaluate.tasks", "5"),
]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_from_training_to_comparison(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = ["--model", "mine.py:net", "--data", "mine.py:tasks", "--method.loss", "mine.py:loss"]
    assert main(["train", "sine-5shot/maml", *ours, *BUDGET, "--test", "{}", "--run", "a"]) == 2
    assert "--test" in capsys.readouterr().err
    assert not Path("a").exists()
    words = [*ours, *BUDGET, "--test.shot", "null", "--test.queries", "null"]
    assert main(["train", "sine-5shot/maml", *words, "--run", "a"]) == 0
    config, method, _ = load(Path("a"))
    assert config.files == {str(file): hashlib.sha256(FILE.encode()).hexdigest()}
    assert config.model.place == f"{file}:net"

    # From another folder, and from the run's own YAML file.
    monkeypatch.chdir("/")
    run, other = tmp_path / "a", tmp_path / "b"
    assert main(["train", str(run / "config.yaml"), "--seed", "1", "--run", str(other)]) == 0
    assert main(["train", str(run), "--resume", "--train.iterations", "5"]) == 0
    assert main(["evaluate", str(run)]) == 0
    assert json.loads((run / "evaluation.json").read_text())["summary"]["tasks"] == 5
    table = tmp_path / "table.json"
    assert main(["compare", str(run), str(other), "--json", str(table)]) == 0
    assert set(json.loads(table.read_text())["results"]) == {"a", "b"}
    assert main(["check-gradient", str(run), "--tasks", "1", "--estimators", "adjoint"]) == 0
    assert "19 meta-parameters" in capsys.readouterr().out
    assert main(["cite", str(run)]) == 0
    x = torch.linspace(-1, 1, 4).unsqueeze(1)
    assert method.adapt(x, x.sin())(x).shape == (4, 1)


def test_a_yaml_file_of_three_lines(file: Path) -> None:
    Path("run.yaml").write_text(
        "name: mine\nmodel: mine.py:net\ndata: mine.py:tasks\n"
        "method: {kind: maml, loss: mine.py:loss, lr: 0.01}\n"
        "train: {iterations: 2, meta_batch: 2, validate_every: 0, device: cpu}\n"
    )
    assert main(["train", "run.yaml"]) == 0
    assert Path("runs/mine/config.yaml").exists()


def test_a_changed_file_is_refused_and_told(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "sine-5shot/maml", "--model", "mine.py:net", *BUDGET, "--run", "a"]
    assert main(words) == 0
    file.write_text(FILE + "\n# a comment\n")
    for verb in (["evaluate", "a"], ["train", "a", "--resume"], ["check-gradient", "a"]):
        capsys.readouterr()
        assert main(verb) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "mine.py has changed since the run was made" in said and "--files {}" in said
    assert main(["evaluate", "a", "--files", "{}"]) == 0
    file.unlink()
    assert main(["evaluate", "a"]) == 2
    assert "mine.py is not a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "mine.py:nothing"], "defines no 'nothing'"),
        (["--model", "other.py:net"], "other.py is not a file"),
        (["--model", "mine.py:loss"], "needs y; expected a function without arguments"),
        (["--method.loss", "mine.py:net"], "net"),
        (["--data", "mine.py:net"], "gave Sequential, expected a Source"),
        (["--model", "broken.py:net"], "broken.py, line 2: importing it raised NameError"),
    ],
)
def test_mistakes_leave_nothing_behind(
    words: list[str], said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.py").write_text("import torch\nx = undefined\n")
    data = ["--test.shot", "null", "--test.queries", "null"]
    assert main(["train", "sine-5shot/maml", *BUDGET, *data, *words]) == 2
    shown = capsys.readouterr().err
    assert said in shown and "Traceback" not in shown
    assert not Path("runs").exists()

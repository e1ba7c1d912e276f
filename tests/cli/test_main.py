"""The commands, end to end on runs of milliseconds."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from innerloop.cli import main
from innerloop.cli.commands import COMMANDS
from innerloop.evaluate import EvaluationResult

SMALL = shlex.split(
    "--train.iterations 4 --train.meta-batch 2 --train.log-every 2 --train.validate-every 2 "
    "--train.validate-tasks 2 --train.device cpu --model.hidden [8]"
)


def sine(run: Path, *more: str) -> int:
    return main(["train", "sine-5shot/maml", "--run", str(run), *SMALL, *more])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    assert sine(tmp_path / "run") == 0
    return tmp_path / "run"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six classes of eight 16 x 16 PNG files each."""
    rng = np.random.default_rng(0)
    for k in range(6):
        folder = tmp_path / "images" / f"class{k}"
        folder.mkdir(parents=True)
        for i in range(8):
            pixels = np.clip(40 * k + rng.integers(0, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "images"


def image_run(images: Path, run: Path, *more: str) -> int:
    words = (
        "train folder-5w1s/maml --data.size 16 --data.way 2 --data.queries 2 --model.filters 4 "
        "--data.fractions [0.34,0.33,0.33] --method.lr 0.1 --evaluate.steps 2 --model.blocks 2 "
        "--train.iterations 2 --train.meta-batch 2 --train.validate-tasks 2 --train.device cpu"
    )
    return main([*words.split(), "--data.root", str(images), "--run", str(run), *more])


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert name in shown
        assert main([name, "--help"]) == 0


def test_train_and_resume(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (run / "config.yaml").exists() and (run / "task.json").exists()
    assert main(["train", str(run), "--resume", "--train.iterations", "6"]) == 0
    assert "step 4 of 6" in capsys.readouterr().out
    assert "iterations: 6" in (run / "config.yaml").read_text()


def test_a_yaml_file_is_a_recipe(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert main(["train", str(run / "config.yaml"), "--run", str(other)]) == 0
    weights = "checkpoints/step-00000004/model.safetensors"
    assert (other / weights).read_bytes() == (run / weights).read_bytes()
    capsys.readouterr()
    assert main(["train", str(run / "config.yaml"), "--show"]) == 0
    sealed = (run / "config.yaml").read_text()
    assert capsys.readouterr().out.strip() == sealed.partition("\n")[2].strip()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "sine-5shots/maml"], "did you mean sine-5shot/maml?"),
        (["train", "sine-5shot/maml", "--train.l", "1", "--method.lr", "-1"], "2 problems"),
        (["train", "folder-5w1s/maml"], "data.root: missing"),
        (["train", "folder-5w1s/maml", "--data.root", "/nonexistent"], "/nonexistent"),
        (["train", "missing.yaml"], "missing.yaml"),
        (["evaluate", "missing"], "missing holds no run"),
        (["compare", "missing"], "two runs or more"),
        (["adapt", "missing", "--support", "a", "--query", "b", "--out", "c"], "holds no run"),
        (["recipes", "nothing-like-it"], "no recipe"),
        (
            ["train", "sine-5shot/maml", "--lr", "1"],
            "--method.lr (of the inner steps) or --train.lr",
        ),
        (["train", "sine-5shot/maml", "--iteration", "1"], "did you mean --train.iterations?"),
        (["train", "folder-5w1s/r2d2"], "innerloop train folder-5w1s/maml --method r2d2"),
        (["train", "sine-5shot/maml", "--train.device", "meta"], "'meta' cannot be used"),
        (["train", "sine-5shot/maml", "--train.lr", "!!bool x"], "the tag"),
        (["train", "sine-5shot/maml", "--run", "\udcff"], "is not UTF-8"),
        (["train", "sine-5shot/maml", "--model.hidden", "[100000000000000]"], "not enough memory"),
        (["prepare", "~nobody-at-all/x", "--out", "y"], "neither a data set nor a folder"),
        (["schema", "--out", "."], "only an ordinary file is replaced"),
        (["check-gradient", "sine-5shot/maml", "--estimators", "magic"], "known: unrolled"),
        (["prepare", "omniglot", "--source", "/nonexistent"], "/nonexistent"),
    ],
)
def test_mistakes_are_one_error_without_traceback(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert said in shown.err
    assert "Traceback" not in shown.err
    assert not list(tmp_path.iterdir()), "a mistake must leave nothing behind"
    assert main([*words, "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_folder_in_use_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert sine(run) == 2
    assert "--resume" in capsys.readouterr().err
    assert sine(run, "--resume", "--seed", "1") == 2
    assert "seed" in capsys.readouterr().err
    assert main(["train", str(run)]) == 2
    assert "is a run" in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_evaluate(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    words = ["evaluate", str(run), "--tasks", "5", "--steps", "3", "--json", str(out)]
    assert main(words) == 0
    result = EvaluationResult.from_json(out)
    assert result.values.shape == (4, 5)
    shown = capsys.readouterr().out
    assert "norm none in the model" in shown and result.text() in shown
    assert main([*words[:4], "--test.shot", "2", "--weights", "last"]) == 0
    assert not (run / "evaluation.json").exists(), "no test as the run describes it was made"
    kept = EvaluationResult.from_json(run / "evaluation-tasks-5-weights-last-test.shot-2.json")
    assert kept.source["shot"] == "2" and kept.steps == 10
    assert main(["evaluate", str(run), "--evaluate.tasks", "4"]) == 0
    assert (run / "evaluation-evaluate.tasks-4.json").exists()
    assert main([*words, "--weights", "3"]) == 2
    assert "no weights for '3'" in capsys.readouterr().err


def test_compare_pairs_on_the_same_tasks(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = tmp_path / "other", tmp_path / "compare.json"
    assert sine(other, "--method", "fomaml", "--method.loss", "mse", "--method.lr", "0.01") == 0
    words = ["compare", str(run), str(other), "--tasks", "6", "--steps", "2", "--json", str(out)]
    assert main(words) == 0
    content = json.loads(out.read_text())
    assert set(content["results"]) == {"run", "other"}
    pair = content["pairs"][0]
    assert pair["wins"] + pair["ties"] + pair["losses"] == 6
    means = {name: r["mean"][-1] for name, r in content["results"].items()}
    assert pair["difference"] == pytest.approx(means["run"] - means["other"])
    shown = capsys.readouterr().out
    assert "run - other: " in shown and "no difference shown" in shown
    table = shown.partition("mean squared error")[2].splitlines()[1:5]
    assert "…" not in shown and max(map(len, table)) <= 80
    assert table[0].split() == ["inner", "steps", "run", "other"]


def test_report(run: Path) -> None:
    assert main(["report", str(run), "--tasks", "6", "--steps", "2"]) == 0
    text = (run / "report-tasks-6-steps-2.html").read_text()
    assert "sine-5shot/maml" in text and "Learning curves" in text


def test_images_from_training_to_predictions(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, support = tmp_path / "run", tmp_path / "out", tmp_path / "support"
    assert image_run(images, run) == 0
    assert main(["evaluate", str(run), "--tasks", "4"]) == 0
    for k in (0, 5):
        (support / f"class{k}").mkdir(parents=True)
        (support / f"class{k}" / "0.png").write_bytes((images / f"class{k}/0.png").read_bytes())
    queries = [str(images / f"class{k}/{i}.png") for k in (0, 5) for i in (1, 2)]
    # The images themselves are not needed any more.
    images.rename(tmp_path / "moved")
    queries = [q.replace(str(images), str(tmp_path / "moved")) for q in queries]
    words = ["adapt", str(run), "--support", str(support), "--out", str(out), "--query", *queries]
    assert main(words) == 0
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and {r["predicted"] for r in rows} <= {"class0", "class5"}
    about = json.loads((out / "adapted.json").read_text())
    assert about["input"] == {"size": [16, 16], "channels": 3, "range": [0, 1], "invert": False}
    assert about["steps"] == 2
    assert main(words) == 2
    assert "not empty" in capsys.readouterr().err


def test_bad_images_are_refused_or_listed(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (images / "class0" / "9.png").write_text("not an image")
    assert image_run(images, tmp_path / "run") == 2
    assert "--skip-bad" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert image_run(images, tmp_path / "run", "--skip-bad") == 0
    assert any("skipped file" in m and "9.png" in m for m in caplog.messages)


def test_check_gradient_on_ones_own_network_and_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n\n"
        "def net():\n    return nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))\n\n"
        "def loss(outputs, y):\n    return ((outputs - y) ** 4).mean()\n\n"
        "wrong = nn.Linear(2, 3)\nnothing = 3\n"
    )
    words = ["check-gradient", "sine-5shot/maml", "--tasks", "1"]
    estimators = ["--estimators", "adjoint", "implicit"]
    ours = ["--model", f"{file}:net", "--method.loss", f"{file}:loss"]
    assert main([*words, *ours, *estimators]) == 0
    shown = capsys.readouterr().out
    assert "13 meta-parameters" in shown
    assert "adjoint sweep" in shown and "refused" in shown
    for name, said in (
        ("missing", "defines no"),
        ("wrong", "shape"),
        ("nothing", "expected a function"),
    ):
        assert main([*words, "--model", f"{file}:{name}"]) == 2
        assert said in capsys.readouterr().err


def test_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert "omniglot-5w1s/" in shown and "glyphs-5w1s/" in shown
    assert main(["recipes", "sine-5shot"]) == 0
    assert "sine-5shot/maml" in capsys.readouterr().out


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_go_on(signum: int, code: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    program = "import sys; from innerloop.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [
        "train",
        "sine-5shot/maml",
        "--run",
        str(run),
        *SMALL,
        "--train.iterations",
        "10000000",
    ]
    with subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        metrics = run / "metrics.jsonl"
        for _ in range(600):
            if (metrics.exists() and metrics.stat().st_size) or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signum)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert f"innerloop train {run} --resume" in " ".join(said.split())
    assert list((run / "checkpoints").glob("step-*"))

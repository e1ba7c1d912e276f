"""What the commands print and write: names as text, results that replace nothing, one line each."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import innerloop
from innerloop.cli import main
from innerloop.cli.commands import Compare, Evaluate, Report
from innerloop.cli.console import visible
from innerloop.cli.entry import told
from innerloop.cli.outputs import LONGEST, check_target, named_result
from innerloop.cli.overrides import Overrides
from innerloop.config import ConfigError

SMALL = shlex.split(
    "--train.iterations 2 --train.meta-batch 2 --train.log-every 2 --train.validate-tasks 2 "
    "--train.device cpu --model.hidden [4] --evaluate.tasks 4 --evaluate.steps 1"
)


def sine(run: Path, *more: str) -> int:
    return main(["train", "sine-5shot/maml", "--run", str(run), *SMALL, *more])


@pytest.mark.parametrize("name", ["lr[seed=1]", "[/x]", "[bold]b[/bold]", "a b", ":smile:"])
def test_names_are_text(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path(name)
    assert sine(run, "--name", name) == 0
    assert f"next: innerloop evaluate {shlex.quote(name)}" in capsys.readouterr().out
    assert sine(Path("other")) == 0
    out = f"{name.replace('/', '-')}.json"
    assert main(["compare", name, "other", "--json", out]) == 0
    shown = capsys.readouterr().out
    assert f"{run.name} - other: " in shown and f"written to {out}" in shown
    assert set(json.loads(Path(out).read_text())["results"]) == {run.name, "other"}
    assert main(["train", name]) == 2
    assert name in capsys.readouterr().err


def test_control_characters_are_shown_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    assert visible("a\x1b[2Jb\tc\nd\u202ee") == "a\\x1b[2Jb\tc\nd\\u202ee"
    assert main(["evaluate", "a\x1b[31mb"]) == 2
    shown = capsys.readouterr().err
    assert "\x1b[31mb" not in shown and "\\x1b[31mb holds no run" in shown


def test_results_with_other_settings_have_names_of_their_own(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert sine(run) == 0
    assert main(["evaluate", str(run)]) == 0
    first = (run / "evaluation.json").read_bytes()
    assert main(["evaluate", str(run), "--tasks", "3", "--test.shot", "2"]) == 0
    assert main(["report", str(run), "--tasks", "3"]) == 0
    assert (run / "evaluation.json").read_bytes() == first
    made = {p.name for p in run.iterdir()}
    assert {
        "evaluation-tasks-3-test.shot-2.json",
        "evaluation-tasks-3.json",
        "report-tasks-3.html",
    } <= made
    assert "report.html" not in made


def test_names_of_results() -> None:
    run = Path("run")
    one = Evaluate(run=run, tasks=50, device="cpu", json=Path("x.json"))
    assert one.asked(Overrides()) == "tasks-50"
    assert Evaluate(run=run).asked(Overrides((("method.kind", "a/b c"),))) == "method-a_b_c"
    assert Report(run=run, baselines=(run,)).asked(Overrides()) == ""
    assert Compare(runs=(run,), seed=3).asked(Overrides()) == "seed-3"
    long = [named_result(run, "report.html", "x" * LONGEST + tail).name for tail in ("a", "b")]
    assert long[0] != long[1] and max(map(len, long)) < 200


@pytest.mark.parametrize("verb", ["evaluate", "compare", "report"])
def test_a_bad_target_is_refused_before_anything_is_scored(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert sine(run) == 0
    (tmp_path / "link.json").symlink_to(tmp_path / "elsewhere.json")
    monkeypatch.setattr("innerloop.cli.scoring.scored", lambda *a, **k: pytest.fail("scored"))
    words = [verb, str(run), *([str(run)] if verb == "compare" else [])]
    option = "--out" if verb == "report" else "--json"
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for target in (tmp_path, tmp_path / "link.json", run / "config.yaml", run / "task.json" / "x"):
        assert main([*words, option, str(target)]) == 2
        assert "error: " in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_other_data_than_the_weights_were_made_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert sine(run) == 0
    for words in (["--data", "glyphs"], ["--data", "linear_gaussian"]):
        assert main(["evaluate", str(run), *words]) == 2
        shown = " ".join(capsys.readouterr().err.split())
        assert "was trained for regression of inputs (1,) with 1 outputs" in shown


def test_a_damaged_cost_file_does_not_stop_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert sine(run) == 0
    (run / "cost.json").write_text("{")
    assert main(["train", str(run), "--resume", "--train.iterations", "4"]) == 0
    assert json.loads((run / "cost.json").read_text())["step"] == 4


def test_a_damaged_task_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert sine(run) == 0
    for text in ("[" * 5000, "[]", '{"kind": 1}', "", '{"kind": "x", "x_shape": [1]}'):
        (run / "task.json").write_text(text)
        capsys.readouterr()
        assert main(["evaluate", str(run)]) == 2
        assert "task.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "not enough memory for this. Ask for less: --train.meta_batch"),
        (RuntimeError("CUDA out of memory. Tried to\nallocate"), "not enough memory"),
        (RuntimeError("mat1 and mat2\nshapes"), "mat1 and mat2 shapes (--debug shows where)"),
        (NotImplementedError("meta"), "NotImplementedError: meta"),
        (OverflowError("too large"), "OverflowError: too large"),
        (OSError(28, "No space left on device", "/x/y"), "'/x/y': free some space"),
        (ConfigError("x.yaml", ["a: b"]), "1 problem in x.yaml:\n  a: b"),
    ],
)
def test_foreseeable_errors(error: Exception, said: str) -> None:
    assert said in told(error)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"innerloop {innerloop.__version__}"


def test_the_help_of_train_lists_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    for name in (
        "--train.meta_batch",
        "--test.way",
        "--evaluate.tasks",
        "proto_maml",
        "FILE.py:NAME",
    ):
        assert name in shown


def test_the_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "A run of innerloop"
    out = tmp_path / "schema.json"
    assert main(["schema", "--out", str(out)]) == 0
    assert "$defs" in json.loads(out.read_text())
    assert f"$schema={out}" in capsys.readouterr().out


def test_the_demo_takes_over_no_other_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert sine(run) == 0
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert main(["demo", "--run", str(run)]) == 2
    assert "holds a run of sine-5shot/maml, and the demo is glyphs-5w1s/maml" in " ".join(
        capsys.readouterr().err.split()
    )
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    assert main(["demo", "--run", str(tmp_path / "notes")]) == 2
    assert "is not empty and holds no run" in capsys.readouterr().err


BLOCKED = """
import sys
for name in {blocked}:
    sys.modules[name] = None
{body}
"""
EXTRA = ("tyro", "rich", "yaml", "pydantic", "pydantic_core", "PIL", "matplotlib", "jinja2")


def test_the_library_goes_without_the_extras(tmp_path: Path) -> None:
    """Everything that a loop of one's own needs, with every package of the extra blocked."""
    body = """
import torch
import innerloop
from innerloop import Batch, Method, Task, methods, estimate, scope, solve, heads, learn, objective
from innerloop.evaluate import evaluate
from innerloop.data.values.synthetic import Sine
from innerloop.models import mlp
from innerloop.train import loop, settings, checkpoint
source = Sine(shot=3, queries=3)
method = methods.maml(mlp(1, 1), loss="mse", steps=1)
loss = method.loss(source.sample(torch.Generator().manual_seed(0), 2))
loss.backward()
evaluate(method, source, tasks=600)
"""
    program = BLOCKED.format(blocked=EXTRA, body=body)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_the_command_without_the_extra_says_what_to_install() -> None:
    body = "from innerloop.cli import main\nsys.exit(main(['recipes']))"
    for name in ("tyro", "rich"):
        program = BLOCKED.format(blocked=(name,), body=body)
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert ran.returncode == 2
        assert ran.stderr == (
            f"error: the command line needs {name}, which is not installed: "
            "pip install 'innerloop[cli]'\n"
        )


def test_targets(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert check_target(tmp_path / "new" / "deep" / "x.json").name == "x.json"
    with pytest.raises(ValueError, match="is a file, not a folder"):
        check_target(tmp_path / "file" / "x.json")

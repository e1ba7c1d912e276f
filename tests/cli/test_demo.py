"""The demo, with a network and a budget of seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from innerloop.cli import demo, main
from innerloop.evaluate import EvaluationResult, diagnose

SMALL = (
    "--train.minutes 0.01 --train.workers 1 --train.validate-tasks 4 --train.device cpu "
    "--model.filters 4 --test.queries 2 --evaluate.tasks 8"
)


def test_demo_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "TUNING_TASKS", 4)
    monkeypatch.setattr(demo, "RATES", (0.1, 0.3))
    monkeypatch.setattr(diagnose, "LONGEST", diagnose.SHORTEST)
    words = ["demo", "--run", str(tmp_path / "demo"), *SMALL.split()]
    assert main(words) == 0
    shown = capsys.readouterr().out
    for name in ("MAML", "pre-trained, fine-tuned", "from scratch", "report.html"):
        assert name in shown
    report = (tmp_path / "demo" / "report.html").read_text()
    assert "from scratch" in report
    results = {
        name: EvaluationResult.from_json(tmp_path / "demo" / f"evaluation-{name}.json")
        for name in ("maml", "pre-trained", "from-scratch")
    }
    assert len({r.digest for r in results.values()}) == 1, "all see the same tasks"
    assert {r.tasks for r in results.values()} == {8}
    assert main(words) == 0, "a second run shows the first one again"
    again = EvaluationResult.from_json(tmp_path / "demo" / "evaluation-maml.json")
    assert (again.values == results["maml"].values).all()

"""Ensembles: the mean of the members' outputs, each adapted by itself."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from innerloop import Method, methods
from innerloop.cli import main
from innerloop.config import load_best
from innerloop.data.source import Source
from innerloop.evaluate import Ensemble, EvaluationResult, evaluate
from innerloop.train import checkpoint


def members(count: int) -> list[Method]:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double() for _ in range(count)]
    return [methods.maml(net, lr=0.5, steps=2) for net in nets]


def test_outputs_are_the_mean_of_the_members(blobs: Source) -> None:
    several = members(3)
    tasks = blobs.sample(torch.Generator().manual_seed(0), 4)
    expected = sum(m.query_outputs(tasks, 3) for m in several) / 3
    together = Ensemble(several)
    torch.testing.assert_close(together.query_outputs(tasks, 3), expected)
    assert together.describe()["ensemble"] == "mean outputs of 3 checkpoints"
    result = evaluate(together, blobs, 4, steps=3, stream="validation")
    assert result.values.shape == (4, 4) and result.method["method"] == "maml"


def test_an_ensemble_of_one_is_its_member(blobs: Source) -> None:
    (alone,) = members(1)
    tasks = blobs.sample(torch.Generator().manual_seed(0), 2)
    assert torch.equal(Ensemble([alone]).query_outputs(tasks), alone.query_outputs(tasks))
    with pytest.raises(ValueError, match="at least one method"):
        Ensemble([])


def test_the_command_averages_the_best_validations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    run, out = tmp_path / "run", tmp_path / "out.json"
    words = (
        "--train.iterations 8 --train.meta_batch 2 --train.validate_every 2 --train.keep_best 3 "
        "--train.validate_tasks 4 --train.lr 0.05 --train.device cpu --model.hidden [8]"
    )
    assert main(["train", "sine-5shot/maml", "--run", str(run), *words.split()]) == 0
    capsys.readouterr()
    scored = ["evaluate", str(run), "--tasks", "5", "--steps", "2", "--json", str(out)]
    assert main([*scored, "--ensemble", "3"]) == 0
    shown = capsys.readouterr().out
    assert "ensemble mean outputs of 3 checkpoints" in shown
    config, trained, steps = load_best(run, 3)
    assert ", ".join(steps) in shown
    assert [int(s) for s in steps] == [row[1] for row in checkpoint.ranked(run)]
    test = config.build()[1].test
    expected = evaluate(Ensemble(trained), test, 5, steps=2)
    assert (EvaluationResult.from_json(out).values == expected.values).all()
    assert (evaluate(trained[0], test, 5, steps=2).values != expected.values).any()
    assert main([*scored, "--ensemble", "4"]) == 2
    assert "--train.keep_best 4" in capsys.readouterr().err
    for bad in (["--ensemble", "0"], ["--ensemble", "2", "--weights", "last"]):
        assert main([*scored, *bad]) == 2
        assert "--ensemble N without --weights" in capsys.readouterr().err

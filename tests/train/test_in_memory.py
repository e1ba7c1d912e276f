"""The trainer without a folder: the same run, in memory."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from innerloop.cli import main
from innerloop.config import METHODS, MLP, RunConfig, Sine
from innerloop.train import checkpoint
from innerloop.train.interrupt import Interrupted, Stop
from innerloop.train.log import read_metrics
from innerloop.train.loop import train
from innerloop.train.outer import NonFiniteError
from innerloop.train.settings import Settings
from innerloop.train.weights import read_weights

TIMES = ("step_seconds", "tasks_per_second", "seconds")


def config(**changes: Any) -> RunConfig:
    settings: dict[str, Any] = {
        "iterations": 8,
        "meta_batch": 2,
        "log_every": 3,
        "validate_every": 2,
        "validate_tasks": 4,
        "keep_best": 2,
        "lr": 0.05,
        "device": "cpu",
    }
    return RunConfig(
        name="small",
        data=Sine(shot=5, queries=5),
        model=MLP(hidden=(8,)),
        method=METHODS["maml"](loss="mse", lr=0.01, steps=2),
        train=Settings(**{**settings, **changes}),
    )


def without_times(records: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k not in TIMES} for record in records]


def test_it_is_the_run_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, best weights and records, bit for bit; no file, and no signal handler."""
    small = config()
    kept, splits = small.build()
    train(kept, splits, small.train, seed=3, run_dir=tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    method, splits = small.build()
    handlers = []
    found = train(
        method,
        splits,
        small.train,
        seed=3,
        observers=[lambda record: handlers.append(signal.getsignal(signal.SIGINT))],
    )
    assert set(handlers) == {signal.getsignal(signal.SIGINT)}
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert all(torch.equal(v, method.state_dict()[k]) for k, v in kept.state_dict().items())
    assert without_times(found.metrics) == without_times(
        read_metrics(tmp_path / "run/metrics.jsonl")
    )
    files = checkpoint.best_of(tmp_path / "run", 2)
    assert [best.step for best in found.best] == [int(p.name[5:13]) for p in files]
    for best, file in zip(found.best, files, strict=True):
        tensors, facts = read_weights(file)
        assert float(facts["score"]) == best.score
        assert all(torch.equal(v, best.weights[k]) for k, v in tensors.items())
    assert (found.best_step, found.best_score) == (found.best[0].step, found.best[0].score)
    best = found.best[0].weights
    assert best.keys() == method.state_dict().keys()


def test_a_search_over_rates(tmp_path: Path) -> None:
    """What the trainer without a folder is for."""
    small = config(iterations=4)
    scores = {}
    for lr in (1e-3, 1e-2):
        method, splits = small.build()
        settings = config(iterations=4, lr=lr).train
        scores[lr] = train(method, splits, settings, seed=0).best_score
    assert scores[1e-3] != scores[1e-2] and None not in scores.values()


def test_it_is_stopped_by_whom_it_is_told_to(tmp_path: Path) -> None:
    small, stop = config(), Stop()
    method, splits = small.build()

    def watch(record: Any) -> None:
        if record["event"] == "train":
            stop.signum = signal.SIGTERM

    with pytest.raises(Interrupted) as stopped:
        train(method, splits, small.train, seed=0, observers=[watch], stop=stop)
    assert (stopped.value.step, stopped.value.run_dir) == (3, None)
    assert str(stopped.value) == "stopped by SIGTERM after step 3"


def test_errors_name_no_folder() -> None:
    small = config(lr=3e38)
    method, splits = small.build()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    with pytest.raises(NonFiniteError, match=r"update was not made\. The tasks are"):
        train(method, splits, small.train, seed=0)
    assert all(torch.equal(v, method.state_dict()[k]) for k, v in before.items())
    with pytest.raises(ValueError, match="run_dir"):
        train(method, splits, small.train, seed=0, resume=True)


def test_progress_is_told_from_the_first_step_on() -> None:
    small, records = config(), []
    train(*small.build(), small.train, seed=0, observers=[records.append])
    assert [r["event"] for r in records[:2]] == ["start", "progress"]
    first = records[1]
    assert first["step"] == 1 and first["left"] == pytest.approx(7 * first["step_seconds"])
    validating = [(r["step"], r["done"]) for r in records if r["event"] == "validating"]
    assert validating[:4] == [(2, 0), (2, 2), (4, 0), (4, 2)]


def test_the_allocator_of_the_process_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line changes it, whose process it is; the trainer never does."""
    asked: list[None] = []
    monkeypatch.setattr("innerloop.engine.recorder.keep_freed_memory", lambda: asked.append(None))
    monkeypatch.setattr("innerloop.cli.training.keep_freed_memory", lambda: asked.append(None))
    small = config(iterations=1)
    train(*small.build(), small.train, seed=0)
    assert not asked
    words = ["sine-5shot/maml", "--train.iterations", "1", "--train.validate_every", "0"]
    assert main(["train", *words, "--run", str(tmp_path / "run")]) == 0
    assert len(asked) == 1

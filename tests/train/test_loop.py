"""The outer loop: resume to the bit, signals, non-finite numbers, what is logged."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch

from innerloop import methods
from innerloop.config import METHODS, MLP, RunConfig, Sine, launch
from innerloop.core.types import Task
from innerloop.data.source import Source, Splits
from innerloop.train import checkpoint
from innerloop.train.interrupt import Interrupted, stopping
from innerloop.train.log import read_metrics
from innerloop.train.loop import train
from innerloop.train.outer import NonFiniteError
from innerloop.train.settings import Settings
from innerloop.train.weights import load_weights

TIMES = ("step_seconds", "tasks_per_second", "seconds")

METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    "maml": {"lr": 0.01, "steps": 2},
    "reptile": {"lr": 0.01, "steps": 3, "batch_size": 4},
    "meta_sgd": {"lr": 0.01},
    "pretrained": {"lr": 0.01, "steps": 2},
    # Step 3 of 6, where it is stopped, lies between the two changes.
    "maml_plus_plus": {
        "lr": 0.01,
        "steps": 2,
        "per_step_norm": False,
        "multi_step_until": 0.8,
        "first_order_until": 0.3,
    },
}


def small(kind: str = "maml", **train_settings: Any) -> RunConfig:
    """A sine run of milliseconds."""
    settings: dict[str, Any] = {
        "iterations": 6,
        "meta_batch": 3,
        "log_every": 2,
        "validate_every": 2,
        "validate_tasks": 4,
        "checkpoint_every": 3,
        "device": "cpu",
    }
    if kind == "reptile":
        settings |= {"optimizer": "sgd", "lr": 0.5, "schedule": "linear"}
    return RunConfig(
        name="small",
        data=Sine(shot=5, queries=5),
        model=MLP(hidden=(8,)),
        method=METHODS[kind](loss="mse", **METHOD_SETTINGS[kind]),
        train=Settings(**{**settings, **train_settings}),
    )


def numbers(run_dir: Path) -> list[dict[str, Any]]:
    """The metrics without wall-clock times."""
    return [
        {k: v for k, v in r.items() if k not in TIMES}
        for r in read_metrics(run_dir / "metrics.jsonl")
    ]


def same_state(a: Path, b: Path) -> None:
    """Newest checkpoints of two runs: weights, optimiser and scores equal to the bit."""
    one, two = checkpoint.found(a)[-1], checkpoint.found(b)[-1]
    weights = [safetensors.torch.load_file(p / checkpoint.WEIGHTS) for p in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    states = [torch.load(p / checkpoint.STATE, weights_only=True) for p in (one, two)]
    for state in states:
        state.pop("seconds")
        state.pop("metrics")  # the size and digest of a file with times
        state["window"].pop("step_seconds", None)
    flat = [torch.utils._pytree.tree_leaves(s) for s in states]
    assert len(flat[0]) == len(flat[1])
    for x, y in zip(*flat, strict=True):
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


class Hooked(Source):
    """A source that calls something when it draws for the n-th time."""

    def __init__(self, source: Source, n: int, call: Callable[[Task], Task]) -> None:
        self.source, self.n, self.call, self.drawn = source, n, call, 0
        self.spec = source.spec

    def sample(self, generator: torch.Generator, n: int) -> Task:
        tasks = self.source.sample(generator, n)
        self.drawn += 1
        return self.call(tasks) if self.drawn == self.n else tasks

    def describe(self) -> dict[str, str]:
        return self.source.describe()


class Killed(BaseException):
    """What no run can catch, so that nothing is saved."""


def die(tasks: Task) -> Task:
    raise Killed


def run_hooked(
    config: RunConfig, run_dir: Path, n: int, call: Callable[[Task], Task], **options: Any
) -> None:
    method, splits = config.build()
    hooked = Splits(Hooked(splits.train, n, call), splits.validation, splits.test)
    train(method, hooked, config.train, seed=config.seed, run_dir=run_dir, **options)


@pytest.mark.parametrize("kind", sorted(METHOD_SETTINGS))
def test_resumed_run_is_bit_for_bit_the_uninterrupted_one(kind: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    launch(small(kind), whole)

    def interrupt(tasks: Task) -> Task:
        signal.raise_signal(signal.SIGTERM)
        return tasks

    with pytest.raises(Interrupted, match=r"step 3.*--resume"):
        run_hooked(small(kind), parts, 3, interrupt)
    assert [p.name for p in checkpoint.found(parts)] == ["step-00000003"]
    method, splits = small(kind).build()
    state = train(method, splits, small(kind).train, seed=0, run_dir=parts, resume=True)
    assert state.step == 6
    same_state(whole, parts)
    assert numbers(whole) == numbers(parts)


def test_a_finished_run_can_be_lengthened(tmp_path: Path) -> None:
    launch(small(), tmp_path / "whole")
    half = small(iterations=3)
    launch(half, tmp_path / "parts")
    launch(replace(half, train=small().train), tmp_path / "parts", resume=True)
    same_state(tmp_path / "whole", tmp_path / "parts")


def test_scores_without_adaptation_outlive_a_stop(tmp_path: Path) -> None:
    """The last record of 6 steps, 4 in each, repeats what was measured in the one before."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = small(log_every=4, checkpoint_every=5)
    launch(config, whole)
    with pytest.raises(Killed):
        run_hooked(config, parts, 6, die)
    method, splits = config.build()
    train(method, splits, config.train, seed=0, run_dir=parts, resume=True)
    assert numbers(whole) == numbers(parts)
    assert "mse_before" in numbers(parts)[-2]


def make_earlier(run_dir: Path) -> None:
    """A run's folder as versions before digests left it: saved after validation."""
    for place in checkpoint.found(run_dir):
        tensors = safetensors.torch.load_file(place / checkpoint.WEIGHTS)
        header = {"format": "innerloop-checkpoint-1", "step": str(int(place.name[5:]))}
        safetensors.torch.save_file(tensors, place / checkpoint.WEIGHTS, header)
        state = torch.load(place / checkpoint.STATE, weights_only=True)
        found = json.loads((place / checkpoint.VALIDATION).read_text())
        state |= {k: found[k] for k in ("best_score", "best_step")}
        for name in ("before", "validated", "metrics"):
            state.pop(name)
        torch.save({**state, "format": "innerloop-checkpoint-1"}, place / checkpoint.STATE)
        (place / checkpoint.VALIDATION).unlink()
        (place / checkpoint.STATE_DIGEST).unlink()
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().partition("\n")[2])


def test_runs_of_earlier_versions_go_on(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    launch(small(), whole)
    launch(small(iterations=4, checkpoint_every=4), parts)
    make_earlier(parts)
    records: list[Any] = []
    launch(small(), parts, resume=True, observers=[records.append])
    assert not [r for r in records if r["event"] == "warning"]
    assert [r["step"] for r in records if r["event"] == "validation"] == [6]
    same_state(whole, parts)
    assert numbers(whole) == numbers(parts)
    assert (parts / "config.yaml").read_text() == (whole / "config.yaml").read_text()


def test_a_damaged_checkpoint_and_damaged_metrics_are_said_and_made_again(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        launch(small(checkpoint_every=2), folder)
    (checkpoint.found(parts)[-1] / checkpoint.STATE).write_text("hello")
    metrics = parts / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:30])
    records: list[Any] = []
    launch(small(checkpoint_every=2), parts, resume=True, observers=[records.append])
    said = [r["text"] for r in records if r["event"] == "warning"]
    assert len(said) == 2
    assert "state.pt is damaged" in said[0] and "going on from step 4" in said[0]
    assert "metrics.damaged-" in said[1]
    same_state(whole, parts)
    assert [r["step"] for r in numbers(parts)] == [6, 6]


def test_the_configuration_is_there_before_anything_else(tmp_path: Path) -> None:
    seen: list[Any] = []

    def look(record: Any) -> None:
        if record["event"] == "start":
            seen.extend(p.name for p in tmp_path.iterdir() if not p.name.startswith("."))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(small(), tmp_path, observers=[look])
    assert sorted(seen) == ["config.yaml", "task.json"]
    launch(small(), tmp_path, resume=True)
    launch(small(), tmp_path / "whole")
    same_state(tmp_path, tmp_path / "whole")


def test_what_a_run_that_never_began_has_left_is_no_run(tmp_path: Path) -> None:
    """Killed, or on a full disk, before its configuration was written."""
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / ".lock").write_text("process 1 on another")
    (tmp_path / ".draft-config.yaml").write_text("name: sm")
    launch(small(), tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text('{"event": "train", "step": 1}\n')
    with pytest.raises(ValueError, match=r"holds no run; choose another folder"):
        launch(small(), other)
    with pytest.raises(FileNotFoundError, match=r"config\.yaml is missing.*a new folder"):
        launch(small(), other, resume=True)


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text[: text.index("method:")],
        lambda text: text.replace("meta_batch: 3", "meta_batch: 4"),
        lambda text: text.replace("sha256 ", "sha256 0"),
    ],
)
def test_a_configuration_that_is_not_as_it_was_written_is_refused(
    harm: Callable[[str], str], tmp_path: Path
) -> None:
    launch(small(iterations=1), tmp_path)
    path = tmp_path / "config.yaml"
    assert harm(path.read_text()) != path.read_text()
    path.write_text(harm(path.read_text()))
    with pytest.raises(ValueError, match=r"damaged or edited.*delete its first line"):
        launch(small(iterations=1), tmp_path, resume=True)


def test_a_run_in_progress_is_not_resumed_beside_itself(tmp_path: Path) -> None:
    launch(small(iterations=3), tmp_path)
    refused: list[str] = []

    def again(tasks: Task) -> Task:
        with pytest.raises(ValueError, match=rf"process {os.getpid()} on") as error:
            launch(small(), tmp_path, resume=True)
        refused.append(str(error.value))
        return tasks

    method, splits = small().build()
    hooked = Splits(Hooked(splits.train, 2, again), splits.validation, splits.test)
    train(method, hooked, small().train, seed=0, run_dir=tmp_path, resume=True)
    launch(small(), tmp_path / "whole")
    assert len(refused) == 1
    same_state(tmp_path, tmp_path / "whole")


def test_a_killed_run_repeats_what_was_not_saved(tmp_path: Path) -> None:
    """Metrics past the last checkpoint are dropped and written again."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    launch(small(), whole)

    with pytest.raises(Killed):
        run_hooked(small(), parts, 6, die)
    assert [r["step"] for r in numbers(parts)] == [2, 2, 4, 4]
    with (parts / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "st')
    method, splits = small().build()
    train(method, splits, small().train, seed=0, run_dir=parts, resume=True)
    same_state(whole, parts)
    assert numbers(whole) == numbers(parts)


def test_sigint_saves_and_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt(tasks: Task) -> Task:
        os.kill(os.getpid(), signal.SIGINT)
        return tasks

    with pytest.raises(Interrupted) as stopped:
        run_hooked(small(), tmp_path, 1, interrupt)
    assert stopped.value.signum == signal.SIGINT
    assert stopped.value.step == 1
    assert checkpoint.found(tmp_path)
    assert signal.getsignal(signal.SIGINT) is before


def interrupt_twice(tasks: Task) -> Task:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    raise AssertionError("the step goes on")


def test_a_second_signal_stops_within_the_step_and_saves_those_before(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    launch(small(), whole)
    with pytest.raises(Interrupted, match=r"SIGTERM after step 4.*--resume"):
        run_hooked(small(), parts, 5, interrupt_twice)
    assert checkpoint.found(parts)[-1].name == "step-00000004"
    method, splits = small().build()
    train(method, splits, small().train, seed=0, run_dir=parts, resume=True)
    same_state(whole, parts)
    assert numbers(whole) == numbers(parts)


def test_what_is_held_is_done_whole() -> None:
    done = []
    with stopping() as stop, pytest.raises(KeyboardInterrupt):
        with stop.held():
            signal.raise_signal(signal.SIGINT)
            with stop.held():
                signal.raise_signal(signal.SIGINT)
                done.append("inner")
            done.append("outer")
        done.append("after")
    assert done == ["inner", "outer"]


def test_signals_while_a_stopped_run_is_saved_change_nothing(tmp_path: Path) -> None:
    def insist(record: Any) -> None:
        if record["event"] == "checkpoint":
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="SIGTERM after step 4"):
        run_hooked(small(checkpoint_every=0), tmp_path, 5, interrupt_twice, observers=[insist])


def test_loops_that_have_nothing_to_save_look_at_the_same_stop() -> None:
    done = []
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM$"), stopping() as stop:
        for batch in range(3):
            stop.check()
            done.append(batch)
            signal.raise_signal(signal.SIGTERM)
    assert done == [0]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a terminal's end is a POSIX signal")
def test_the_end_of_a_terminal_stops_a_run_unless_it_is_ignored() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with stopping() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.signum == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) is before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stopping() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.signum is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("n", [2, 5])
def test_a_signal_in_a_validation_loses_nothing(n: int, twice: bool, tmp_path: Path) -> None:
    """Two batches in each of the validations after steps 2, 4 and 6; n counts batches."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = small(checkpoint_every=4)
    launch(config, whole)
    drawn = []

    def interrupt(tasks: Task) -> Task:
        drawn.append(tasks)
        signal.raise_signal(signal.SIGINT)
        if twice:
            signal.raise_signal(signal.SIGINT)
        return tasks

    method, splits = config.build()
    hooked = Splits(splits.train, Hooked(splits.validation, n, interrupt), splits.test)
    with pytest.raises(Interrupted) as stopped:
        train(method, hooked, config.train, seed=0, run_dir=parts)
    # The second batch of the first validation is its last: that one is over, and the next step is.
    step = {(2, False): 3, (2, True): 2, (5, False): 6, (5, True): 6}[n, twice]
    assert stopped.value.step == step
    assert len(drawn) == 1
    assert checkpoint.found(parts)[-1].name == f"step-{step:08d}"
    method, splits = config.build()
    train(method, splits, config.train, seed=0, run_dir=parts, resume=True)
    same_state(whole, parts)
    assert numbers(whole) == numbers(parts)
    assert [p.read_bytes() for p in sorted((whole / "best").iterdir())] == [
        p.read_bytes() for p in sorted((parts / "best").iterdir())
    ]


def test_the_state_is_saved_before_a_validation(tmp_path: Path) -> None:
    """Killed in the last one, by what cannot be caught: nothing but that one is done again."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    launch(small(), whole)
    method, splits = small().build()
    hooked = Splits(splits.train, Hooked(splits.validation, 6, die), splits.test)
    with pytest.raises(Killed):
        train(method, hooked, small().train, seed=0, run_dir=parts)
    assert checkpoint.found(parts)[-1].name == "step-00000006"
    method, splits = small().build()
    counted = Hooked(splits.train, -1, die)
    hooked = Splits(counted, splits.validation, splits.test)
    train(method, hooked, small().train, seed=0, run_dir=parts, resume=True)
    assert counted.drawn == 0
    assert numbers(whole) == numbers(parts)
    before = content(parts)
    train(method, hooked, small().train, seed=0, run_dir=parts, resume=True)
    assert content(parts) == before, "it is done: nothing is validated or written again"


def content(run_dir: Path) -> dict[str, bytes]:
    return {
        str(p): p.read_bytes()
        for p in sorted(run_dir.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


def test_any_error_of_a_step_saves_the_state_before_it(tmp_path: Path) -> None:
    def fail(tasks: Task) -> Task:
        raise MemoryError("too large")

    with pytest.raises(MemoryError):
        run_hooked(small(), tmp_path, 5, fail)
    assert checkpoint.found(tmp_path)[-1].name == "step-00000004"


def test_data_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    def spoil(tasks: Task) -> Task:
        tasks.support.x[1, 0] = torch.nan
        return tasks

    with pytest.raises(ValueError, match=r"support x .* at step 4") as error:
        run_hooked(small(), tmp_path, 5, spoil)
    assert 'train.sample(streams.generator(0, "train", 4), 3)' in str(error.value)
    assert f"saved in {tmp_path}" in str(error.value)
    assert checkpoint.found(tmp_path)[-1].name == "step-00000004"


def test_an_update_that_spoils_the_weights_is_taken_back(tmp_path: Path) -> None:
    """A rate of 3e38, from step 3 on: Adam's steps are about as long as the rate."""
    launch(small(iterations=3), tmp_path / "clean")
    launch(small(iterations=3), tmp_path / "run")
    with pytest.raises(NonFiniteError, match=r"rate 3e\+38 at step 3; the update was not made"):
        launch(small(lr=3e38), tmp_path / "run", resume=True)
    same_state(tmp_path / "clean", tmp_path / "run")
    assert [p.name for p in checkpoint.found(tmp_path / "run")] == ["step-00000003"]


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    def spoil(tasks: Task) -> Task:
        tasks.query.y[1] = torch.inf
        return tasks

    with pytest.raises(NonFiniteError, match=r"task 1 .* at step 4; the update was not made") as e:
        run_hooked(small(), tmp_path, 5, spoil)
    assert 'streams.generator(0, "train", 4), 3)' in str(e.value)
    saved = checkpoint.found(tmp_path)[-1]
    assert saved.name == "step-00000004"
    weights = safetensors.torch.load_file(saved / checkpoint.WEIGHTS)
    assert all(bool(w.isfinite().all()) for w in weights.values())
    launch(small(iterations=4), tmp_path / "clean")
    clean = safetensors.torch.load_file(
        checkpoint.found(tmp_path / "clean")[-1] / "model.safetensors"
    )
    assert all(torch.equal(clean[k], weights[k]) for k in clean)


def test_metrics_say_before_and_after(tmp_path: Path) -> None:
    launch(small(), tmp_path)
    records = read_metrics(tmp_path / "metrics.jsonl")
    train_records = [r for r in records if r["event"] == "train"]
    assert [r["step"] for r in train_records] == [2, 4, 6]
    assert {"loss", "grad_norm", "mse_before", "lr", *TIMES} <= train_records[0].keys()
    validations = [r for r in records if r["event"] == "validation"]
    assert [r["step"] for r in validations] == [2, 4, 6]
    best = min(validations, key=lambda r: r["mse"])
    assert validations[-1]["best_step"] == best["step"]
    header = load_weights(checkpoint.weights_of(tmp_path), small().build()[0])
    assert header["step"] == str(best["step"])
    assert float(header["score"]) == pytest.approx(-best["mse"])


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    launch(small(iterations=1), tmp_path / "run")
    method, splits = small().build()
    with pytest.raises(ValueError, match=r"already holds a run.*--resume"):
        train(method, splits, small().train, seed=0, run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match=r"not empty.*--resume.*--run"):
        launch(small(), tmp_path / "run")


def test_resume_refuses_another_run(tmp_path: Path) -> None:
    launch(small(iterations=1), tmp_path)
    other = replace(small(), seed=1, method=METHODS["maml"](lr=0.5, steps=2, loss="mse"))
    with pytest.raises(ValueError, match=r"2 problems") as error:
        launch(other, tmp_path, resume=True)
    assert "seed: 0" in str(error.value)
    assert "method.lr: 0.01" in str(error.value)


def test_time_limit_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which every step takes a second: six of them fit, and the schedule follows it."""
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    monkeypatch.setattr("innerloop.train.loop.time", clock)
    config = small(
        iterations=1000, minutes=0.1, schedule="linear", lr=0.6, log_every=1, validate_every=0
    )
    state = launch(config, tmp_path)
    assert state.step == 6
    rates = [r["lr"] for r in read_metrics(tmp_path / "metrics.jsonl") if r["event"] == "train"]
    assert rates == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert launch(config, tmp_path, resume=True).step == 6, "the time is used up"


def test_validations_count_and_end_with_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second for each look at the clock: a step takes one, a validation of two batches three.

    After 3 steps and a validation 6 of 8 seconds are gone. The last validation, after step 5,
    begins at 8 and may last until 8.8, so that it is given up before its first batch.
    """
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    monkeypatch.setattr("innerloop.train.loop.time", clock)
    config = small(iterations=1000, minutes=8 / 60, validate_every=3, log_every=1)
    records: list[Any] = []
    state = launch(config, tmp_path, observers=[records.append])
    assert (state.step, state.best_step) == (5, 3)
    assert [r["step"] for r in records if r["event"] == "validation"] == [3]
    assert "given up" in [r["text"] for r in records if r["event"] == "warning"][-1]
    assert checkpoint.found(tmp_path)[-1].name == "step-00000005"


def test_no_iterations_leave_the_initial_weights(tmp_path: Path) -> None:
    launch(small(iterations=0), tmp_path)
    method, _ = small().build()
    initial = {k: v.clone() for k, v in method.state_dict().items()}
    load_weights(checkpoint.weights_of(tmp_path), method)
    assert all(torch.equal(initial[k], v) for k, v in method.state_dict().items())


class Followed(torch.nn.Linear):
    """A layer that notes what it is told of the progress."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.told: list[float] = []

    def at_progress(self, fraction: float) -> None:
        self.told.append(fraction)


def test_the_method_is_told_how_much_is_over(tmp_path: Path) -> None:
    """Before every step, also of a run that goes on."""
    config = small(iterations=4)
    _, splits = config.build()
    for steps, expected in ((2, [0.0, 0.5]), (4, [0.5, 0.75])):
        settings = replace(config.train, iterations=steps)
        layer = Followed()
        method = methods.maml(layer, lr=0.01, steps=1, loss="mse")
        train(method, splits, settings, seed=0, run_dir=tmp_path, resume=steps > 2)
        assert layer.told == expected


def test_time_is_progress_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    monkeypatch.setattr("innerloop.train.loop.time", clock)
    config = small(iterations=1000, minutes=4 / 60, validate_every=0)
    layer = Followed()
    method = methods.maml(layer, lr=0.01, steps=1, loss="mse")
    train(method, config.build()[1], config.train, seed=0, run_dir=tmp_path)
    assert layer.told == pytest.approx([0.0, 0.25, 0.5, 0.75])


def scores(run_dir: Path) -> dict[int, float]:
    records = read_metrics(run_dir / "metrics.jsonl")
    return {r["step"]: r["mse"] for r in records if r["event"] == "validation"}


def test_the_best_validations_are_kept(tmp_path: Path) -> None:
    config = small(iterations=12, keep_best=3, lr=0.05)
    launch(config, tmp_path / "whole")
    found = scores(tmp_path / "whole")
    best = sorted(found, key=lambda step: (found[step], step))[:3]
    paths = checkpoint.best_of(tmp_path / "whole", 3)
    assert [p.name for p in paths] == [f"step-{step:08d}.safetensors" for step in best]
    assert checkpoint.best_of(tmp_path / "whole", 1) == paths[:1]
    first, top = (
        safetensors.torch.load_file(p)
        for p in (paths[0], tmp_path / "whole" / "best" / checkpoint.WEIGHTS)
    )
    assert all(torch.equal(first[k], top[k]) for k in top)
    with pytest.raises(FileNotFoundError, match=r"of 3 validations.*--train.keep_best 5"):
        checkpoint.best_of(tmp_path / "whole", 5)


def test_the_best_validations_of_a_resumed_run_are_those_of_the_whole(tmp_path: Path) -> None:
    """Killed after step 11 with the last checkpoint at 6: what came after 6 is made again."""
    config = small(iterations=12, keep_best=2, lr=0.05, checkpoint_every=6)
    launch(config, tmp_path / "whole")

    with pytest.raises(Killed):
        run_hooked(config, tmp_path / "parts", 12, die)
    method, splits = config.build()
    train(method, splits, config.train, seed=0, run_dir=tmp_path / "parts", resume=True)
    whole, parts = (
        {p.name: safetensors.torch.load_file(p) for p in (tmp_path / name / "best").iterdir()}
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys() and len(whole) == 3
    assert all(torch.equal(v, parts[name][k]) for name in whole for k, v in whole[name].items())


def test_a_score_that_is_no_number_is_the_worst(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    for step, score in enumerate((float("nan"), 0.1, 0.3, 0.2, 0.3)):
        checkpoint.save_ranked(tmp_path, model, step, score, 3)
    assert [p.name[5:13] for p in checkpoint.best_of(tmp_path, 3)] == [
        "00000002",
        "00000004",
        "00000003",
    ]


def test_a_validation_that_is_no_number_is_not_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter((float("nan"), -3.0, -4.0, float("nan")))

    def validate(*args: Any, **settings: Any) -> dict[str, float]:
        score = next(left)
        return {"mse": -score, "score": score}

    monkeypatch.setattr("innerloop.train.loop.validate", validate)
    config = small(iterations=8)
    state = train(*config.build(), config.train, seed=0, run_dir=tmp_path)
    assert (state.best_score, state.best_step) == (-3.0, 4)
    assert load_weights(checkpoint.weights_of(tmp_path), config.build()[0]) == {
        "step": "4",
        "score": "-3.0",
    }

"""Ranks that torchrun has started: the result of one process, through losses and restarts."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from innerloop.cli import main
from innerloop.data.values.synthetic import Sine
from innerloop.train import checkpoint
from innerloop.train.log import read_metrics
from innerloop.train.ranks import ENVIRONMENT, Ranks, launched

PROGRAM = """
import os, signal, sys
import torch
from innerloop.cli import main
from innerloop.data.values.synthetic import Sine

torch.set_default_dtype(torch.float64)
Sine.__init__.__kwdefaults__["dtype"] = torch.float64
draw, drawn = Sine.sample, 0

def sample(self, generator, n):
    # In each attempt one rank dies as it draws its so-and-so-many-th batch.
    global drawn
    drawn += 1
    attempt, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
    if dict(enumerate(deaths)).get(attempt) == (rank, drawn):
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(self, generator, n)

deaths, Sine.sample = {deaths}, sample
sys.exit(main(sys.argv[1:]))
"""
SMALL = shlex.split(
    "sine-5shot/maml --model.hidden [8] --train.meta_batch 5 --train.iterations 10 "
    "--train.log_every 4 --train.validate_every 5 --train.validate_tasks 11 "
    "--train.checkpoint_every 3 --train.keep_last 9 --train.device cpu"
)
TIMES = ("step_seconds", "tasks_per_second", "seconds")


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks and sine tasks in float64, as in PROGRAM."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    monkeypatch.setitem(Sine.__init__.__kwdefaults__, "dtype", torch.float64)
    yield
    torch.set_default_dtype(before)


def torchrun(
    folder: Path, ranks: int, *words: str, deaths: Any = (), restarts: int = 0
) -> subprocess.CompletedProcess[str]:
    """`torchrun PROGRAM train words` with so many ranks on this machine."""
    program = folder / "program.py"
    program.write_text(PROGRAM.replace("{deaths}", repr(deaths)), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
    ]
    running = subprocess.Popen(
        [*command, f"--max-restarts={restarts}", "--", str(program), "train", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said, errors = running.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        running.terminate()  # a killed torchrun would leave its ranks behind
        said, errors = running.communicate()
    return subprocess.CompletedProcess(running.args, running.returncode, said, errors)


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(
        run / "checkpoints" / f"step-{step:08d}" / checkpoint.WEIGHTS
    )


def numbers(run: Path) -> list[dict[str, float]]:
    """Every line of metrics, without times."""
    return [
        {k: v for k, v in record.items() if isinstance(v, int | float) and k not in TIMES}
        for record in read_metrics(run / "metrics.jsonl")
    ]


def best(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "best" / checkpoint.WEIGHTS)


def close(ranks: object, alone: object) -> None:
    torch.testing.assert_close(ranks, alone, rtol=1e-9, atol=1e-12)


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    assert main(["train", *SMALL, "--run", str(tmp_path / "alone")]) == 0
    return tmp_path / "alone"


def test_two_then_one_then_three_ranks_equal_one(tmp_path: Path, alone: Path) -> None:
    """Five tasks on 2 and on 3 ranks: unequal shares; 3 batches of validation tasks as well."""
    run = tmp_path / "run"
    first = torchrun(tmp_path, 2, *SMALL, "--run", "run", "--train.iterations", "4")
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("trained 4 steps") == 1, "the first rank speaks for all"
    close(weights(run, 3), weights(alone, 3))
    assert main(["train", str(run), "--resume", "--train.iterations", "7"]) == 0
    last = torchrun(tmp_path, 3, "run", "--resume", "--train.iterations", "10")
    assert last.returncode == 0, last.stderr
    assert "step 7 of 10" in last.stdout
    steps = [int(p.name[5:]) for p in checkpoint.found(run)]
    assert steps == [3, 4, 6, 7, 9, 10]
    close(weights(run, 10), weights(alone, 10))


def test_killed_ranks_are_started_again_and_lose_nothing_saved(tmp_path: Path, alone: Path) -> None:
    """First rank 1 dies in step 4, and rank 0 saves; then rank 0 in step 7, after a checkpoint."""
    deaths = ((1, 5), (0, 6))  # between them rank 0 draws two batches of validation tasks
    ended = torchrun(tmp_path, 2, *SMALL, "--run", "run", deaths=deaths, restarts=2)
    assert ended.returncode == 0, ended.stderr
    started = [line.split()[2] for line in ended.stdout.splitlines() if " of 10," in line]
    assert started == ["0", "4", "6"], ended.stderr
    # What rank 0 says of it is a race: it hears of the loss first, or of the launcher's signal.
    for get in (lambda run: weights(run, 10), best, numbers):
        close(get(tmp_path / "run"), get(alone))


def test_workers_under_torchrun_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in zip(ENVIRONMENT, ("0", "2", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    run = tmp_path / "run"
    assert main(["train", *SMALL, "--run", str(run), "--workers", "2"]) == 2
    assert "one or the other" in " ".join(capsys.readouterr().err.split())
    assert not run.exists()


def test_one_rank_needs_no_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--resume` under torchrun starts a run that is not there: a job is requeued with it."""
    assert not launched()
    for name, value in zip(ENVIRONMENT, ("0", "1", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert launched()
    words = ["train", *SMALL, "--run", str(tmp_path / "run"), "--resume", "--train.iterations"]
    assert main([*words, "2"]) == 0
    assert main([*words, "3"]) == 0
    assert checkpoint.found(tmp_path / "run")[-1].name == "step-00000003"


@pytest.mark.parametrize(
    ("name", "message"),
    [("cuda:1", "cpu.*or on.*cuda"), ("mps", "use --train.device cuda")],
)
def test_ranks_choose_their_own_device(name: str, message: str) -> None:
    assert Ranks().device(name) == name
    assert Ranks(1, 2, 1).device("cpu") == "cpu"
    with pytest.raises(ValueError, match=message):
        Ranks(1, 2, 1).device(name)


def test_each_rank_takes_the_cuda_device_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert Ranks(5, 8, 1).device("auto") == "cuda:1"
    assert taken == [1]
    with pytest.raises(ValueError, match=r"number 3 of a machine with 2.*--train.device cpu"):
        Ranks(6, 8, 2).device("cuda")

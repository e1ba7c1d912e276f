"""Several worker processes: the same result as one, and clean ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from innerloop import Batch, Method, Task, methods
from innerloop.cli import main
from innerloop.train.log import read_metrics
from innerloop.train.ranks import Ranks, spawn


def small_method() -> Method:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)).double()
    return methods.reptile(model, lr=0.05, steps=3, batch_size=4)


def small_tasks(count: int = 5) -> Task:
    torch.manual_seed(1)
    y = torch.arange(6).remainder(2).expand(count, 6)
    x, q = torch.randn(2, count, 6, 3, dtype=torch.float64)
    return Task(Batch(x, y), Batch(q, y))


def share_one_gradient(ranks: Ranks, folder: Path) -> None:
    method, tasks = small_method(), small_tasks()
    count = len(tasks.support.x)
    for step in range(2):
        torch.manual_seed(step)
        found = method.meta_gradient(ranks.own(tasks), share=lambda mine: ranks.mean(mine, count))
    torch.save(
        {"loss": found.loss, "grads": found.grads, "stats": found.stats,
         "buffers": dict(method.named_buffers())},
        folder / f"{ranks.rank}.pt",
    )  # fmt: skip


def die(ranks: Ranks) -> None:
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.wait()


def fail(ranks: Ranks) -> None:
    raise ValueError("expected something else")


def test_three_ranks_equal_one(tmp_path: Path) -> None:
    spawn(3, share_one_gradient, tmp_path)
    shared = [torch.load(tmp_path / f"{rank}.pt") for rank in range(3)]
    share_one_gradient(Ranks(), tmp_path)
    alone = torch.load(tmp_path / "0.pt")
    torch.testing.assert_close(shared[0], alone, rtol=1e-11, atol=1e-13)
    for other in shared[1:]:
        for part in ("grads", "stats", "buffers"):
            assert all(torch.equal(v, other[part][k]) for k, v in shared[0][part].items())


def test_a_killed_worker_ends_the_run_and_says_how_to_go_on() -> None:
    with pytest.raises(ValueError, match=r"worker 1 was killed \(SIGKILL\).*--resume"):
        spawn(2, die)


def test_an_error_in_a_worker_is_told() -> None:
    with pytest.raises(ValueError, match="expected something else"):
        spawn(2, fail)


def test_fewer_tasks_than_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="meta-batch of 2 for 3 workers"):
        Ranks(0, 3).own(small_tasks(2))


def test_training_with_two_workers(tmp_path: Path) -> None:
    words = ["sine-5shot/maml", "--train.iterations", "4", "--train.log_every", "2"]
    weights = {}
    for workers in ("1", "2"):
        folder = tmp_path / workers
        assert main(["train", *words, "--run", str(folder), "--train.workers", workers]) == 0
        weights[workers] = safetensors.torch.load_file(
            folder / "checkpoints" / "step-00000004" / "model.safetensors"
        )
        assert [
            r["step"] for r in read_metrics(folder / "metrics.jsonl") if r["event"] == "train"
        ] == [2, 4]
    for k, v in weights["1"].items():
        torch.testing.assert_close(v, weights["2"][k], rtol=1e-4, atol=1e-6)
    again = ["train", str(tmp_path / "2"), "--resume", "--train.iterations", "6"]
    assert main([*again, "--train.workers", "1"]) == 0
    assert (tmp_path / "2" / "checkpoints" / "step-00000006").is_dir()

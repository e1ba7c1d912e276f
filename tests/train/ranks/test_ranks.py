"""Several worker processes: the same result as one, and clean ends."""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from innerloop import Batch, Method, Task, methods
from innerloop.cli import main
from innerloop.core.streams import generator
from innerloop.data.images.episodes import Episodes
from innerloop.data.pool import ClassPool
from innerloop.data.source import Source
from innerloop.data.values.synthetic import Sine
from innerloop.train.baseline import AllClasses
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
        found = ranks.mean(method.meta_gradient(ranks.own(tasks)), count)
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


def leave(ranks: Ranks, folder: Path) -> None:
    """As torch._dynamo does in the first outer step; at the end, write which threads are left."""
    importlib.import_module("torch.distributed.nn.functional")
    tasks = Path("/proc/self/task")
    atexit.register(
        lambda: (folder / str(ranks.rank)).write_text(
            " ".join((task / "comm").read_text().strip() for task in tasks.iterdir())
        )
    )
    ranks.wait()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed on Linux")
def test_no_thread_of_the_group_outlives_it(tmp_path: Path) -> None:
    """One that ends with the interpreter aborts it, and the run would count as killed."""
    spawn(2, leave, tmp_path)
    for rank in ("0", "1"):
        assert "gloo" not in (tmp_path / rank).read_text()


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


def test_too_many_workers_are_refused_before_they_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("innerloop.cli.training.spawn", start)
    words = ["sine-5shot/maml", "--train.meta_batch", "8", "--workers", "12"]
    assert main(["train", *words, "--run", str(tmp_path / "run")]) == 2
    assert "meta-batch of 8 for 12 ranks" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_fewer_tasks_than_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="meta-batch of 2 for 3 ranks"):
        Ranks(0, 3).own(small_tasks(2))


def pool() -> ClassPool:
    """Seven classes of six images, each of one grey value."""
    label = torch.arange(42) // 6
    images = torch.arange(42, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    return ClassPool(images, label, [f"c{k}" for k in range(7)], torch.zeros(7).long(), ["all"])


@pytest.mark.parametrize(
    "source",
    [
        Sine(dtype=torch.float64),
        Episodes(pool(), way=3, shot=1, queries=2),
        Episodes(pool(), way=3, shot=1, queries=2, rotate="augment"),
        Episodes(pool(), way=3, shot=1, queries=2, augment="flip-shift"),
    ],
)
def test_ranks_draw_the_tasks_of_one(source: Source) -> None:
    drawn = [Ranks(r, 3).draw(source, generator(0, "t"), 7) for r in range(3)]
    whole = Ranks().draw(source, generator(0, "t"), 7)
    assert [len(task.support.x) for task in drawn] == [2, 2, 3]
    for part, batches in zip(whole, zip(*drawn, strict=True), strict=True):
        assert torch.equal(part.x, torch.cat([batch.x for batch in batches]))
        assert torch.equal(part.y, torch.cat([batch.y for batch in batches]))


def test_a_rank_reads_only_its_own_images(monkeypatch: pytest.MonkeyPatch) -> None:
    read, stored = [], ClassPool.stored

    def counted(self: ClassPool, rows: torch.Tensor, *more: Any) -> Any:
        read.append(len(rows))
        return stored(self, rows, *more)

    monkeypatch.setattr(ClassPool, "stored", counted)
    Ranks(1, 3).draw(Episodes(pool(), way=3, shot=1, queries=2), generator(0, "t"), 7)
    assert read == [2 * 3, 2 * 3 * 2]


def test_a_source_of_one_batch_cannot_be_shared() -> None:
    source = AllClasses(Episodes(pool(), way=3, shot=1, queries=2))
    assert len(Ranks().draw(source, generator(0, "t"), 4).support.x) == 1
    with pytest.raises(ValueError, match=r"AllClasses makes one batch.*--workers 1"):
        Ranks(0, 2).draw(source, generator(0, "t"), 4)


PLUS_PLUS = (
    "--method maml_plus_plus --method.loss mse --method.lr 0.01 --method.per_step_norm false "
    "--method.multi_step_until 0.8 --method.first_order_until 0.3"
)
"""Its weights and its order of derivatives change on the way, on all workers alike."""


@pytest.mark.parametrize("more", ["", PLUS_PLUS], ids=["maml", "maml_plus_plus"])
def test_training_with_two_workers(more: str, tmp_path: Path) -> None:
    words = ["sine-5shot/maml", "--train.iterations", "4", "--train.log_every", "2", *more.split()]
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


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX")
def test_signals_reach_workers_once_each_and_lose_nothing(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to the whole group; a second signal stops them within a step."""
    words = ["train", "sine-5shot/maml", "--run", "run", "--workers", "2", "--train.log_every", "2"]
    training = subprocess.Popen(
        [sys.executable, "-m", "innerloop", *words],
        cwd=tmp_path,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while training.poll() is None and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.05)
    os.killpg(training.pid, signal.SIGINT)
    for _ in range(2):
        time.sleep(0.2)
        training.send_signal(signal.SIGTERM)
    said, _ = training.communicate(timeout=60)
    assert training.returncode == 130, said
    assert "stopped by SIGINT after step" in said
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))

"""Every engine in a process of its own, answering requests to measure.

The weights, the tasks and the float64 reference are in a file that all processes read. Processes
wait between requests, so two engines can be timed in turns.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import speed_engines as own
import speed_peers as peers
import torch
import torch.distributed as dist
from speed_floor import matrix_rate, operations
from speed_rows import Row, Unavailable
from torch.nn.attention import SDPBackend, sdpa_kernel

from innerloop import Batch, Task
from innerloop.core.types import rows, to
from innerloop.doctor.memory import peak_memory
from innerloop.train.ranks import Ranks, spawn

WORKERS = 2
ENGINES: dict[str, Callable[..., own.Engine]] = {
    "innerloop": own.adjoint,
    "traced": own.traced,
    "compiled": own.compiled,
    "fomaml": own.first_order,
    "unrolled": own.unrolled,
    "workers": own.shared,
    "learn2learn": peers.learn2learn,
    "higher": peers.higher,
    "torchopt": peers.torchopt,
    "vmap": peers.vmapped,
    "vmap-compiled": partial(peers.vmapped, compiled=True),
    "jax": peers.jax_jit,
}


@dataclass(frozen=True)
class Job:
    """What a process measures. `problem` is the file of weights, tasks and reference."""

    row: Row
    engine: str
    problem: Path
    device: str
    threads: int
    learn2learn: str | None = None

    @property
    def cache(self) -> Path:
        """Where compiled code is kept for the processes of this engine and row."""
        return self.problem.parent / "compiled" / f"{self.row.name}-{self.engine}"


def first_task(tasks: Task) -> Task:
    """The first of them, still stacked."""
    return rows(tasks, slice(1))


def write_problem(row: Row, path: Path, *, truth: bool = True) -> dict[str, float]:
    """Draw weights and tasks, compute the float64 gradient; its distance from plain autograd's.

    The second way is taken on `sine` only: elsewhere it would need minutes and many gigabytes.
    """
    torch.manual_seed(0)
    model, tasks = row.model(), row.tasks()
    stored: dict[str, Any] = {
        "weights": {k: v.clone() for k, v in model.state_dict().items()},
        "tasks": list(own.four(tasks)),
    }
    told = {"operations": float(operations(row, model, tasks))}
    if truth:
        stored["truth"] = own.reference(row, model, tasks)
        one = len(tasks.support.x) == 1
        stored["first truth"] = (
            stored["truth"] if one else own.reference(row, model, first_task(tasks))
        )
    if row.name == "sine":
        told["reference error"] = own.relative_error(own.plain(row, model, tasks), stored["truth"])
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(stored, path)
    return told


class Process:
    """A running engine: `ask` it to measure, `close` it. Raises TimeoutError, RuntimeError."""

    def __init__(self, job: Job):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # Ranks are processes of their own, and a daemon may not have any.
        self._process = context.Process(target=_main, args=(theirs, job))
        with _environment(job):
            self._process.start()
        theirs.close()

    def ask(self, what: str, *arguments: Any, limit: float = 600) -> Any:
        """The answer to one request; Unavailable where the engine cannot run."""
        try:
            self._connection.send((what, *arguments))
            if not self._connection.poll(limit):
                raise TimeoutError(f"no answer within {limit:.0f} s")
            answer = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join()
            raise RuntimeError(f"the process ended with {self._process.exitcode}") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process, gently if it listens."""
        with contextlib.suppress(OSError):
            self._connection.send(("stop",))
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


@contextlib.contextmanager
def _environment(job: Job) -> Iterator[None]:
    """What a child must find set when it starts: threads, and where compiled code is kept."""
    wanted = {"OMP_NUM_THREADS": str(job.threads), "TORCHINDUCTOR_CACHE_DIR": str(job.cache)}
    before = {k: os.environ.get(k) for k in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for k, v in before.items():
            os.environ.pop(k) if v is None else os.environ.update({k: v})


def _main(connection: Connection, job: Job) -> None:
    if job.engine == "workers":
        spawn(WORKERS, _serve, connection, job)
    else:
        torch.set_num_threads(job.threads)
        # cuDNN would compute float32 convolutions in TF32, ten bits instead of 23.
        torch.backends.cudnn.allow_tf32 = False
        if job.engine == "jax" and hasattr(os, "sched_setaffinity"):
            # XLA takes all cores it may run on; there is no option for their number.
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])
        _serve(Ranks(), connection, job)


def _serve(ranks: Ranks, connection: Connection, job: Job) -> None:
    """Answer requests until "stop"; with several ranks the first one talks, all compute."""
    run: own.Engine | None = None
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no second derivative
        while True:
            what, *arguments = _told(ranks, connection.recv() if ranks.first else None)
            if what == "stop":
                ranks.wait()
                return
            try:
                if what == "first":
                    run, answer = _first(ranks, job)
                elif what == "rate":
                    answer = matrix_rate(torch.device(job.device))
                else:
                    assert run is not None
                    measure = {"time": _times, "memory": _memory, "exactness": _exactness}[what]
                    answer = measure(ranks, job, run, *arguments)
            except Unavailable as reason:
                answer = reason
            except Exception as error:  # told to the parent, which goes on with the next cell
                said = str(error).strip().partition("\n")[0]
                answer = RuntimeError(f"{type(error).__name__}: {said}")
            if ranks.first:
                connection.send(answer)


def _told(ranks: Ranks, request: Any) -> Any:
    """The request that the first rank was sent, on all ranks."""
    if ranks.size == 1:
        return request
    box = [request]
    dist.broadcast_object_list(box)
    return box[0]


def _first(ranks: Ranks, job: Job) -> tuple[own.Engine, dict[str, float]]:
    """Build the engine; seconds of its first call, and the error of its gradient."""
    if job.device == "cuda" and job.engine in ("jax", "workers"):
        raise Unavailable(f"{job.engine} is measured on the CPU only")
    stored = torch.load(job.problem)
    run = _built(ranks, job, stored, torch.float32)
    start = time.perf_counter()
    found = run()
    seconds = time.perf_counter() - start
    error = own.relative_error(found, stored["truth"]) if "truth" in stored else math.nan
    return run, {"first": seconds, "error": error}


def _exactness(ranks: Ranks, job: Job, run: own.Engine) -> float:
    """The error of the same engine in float64, on the first task alone: its own, not rounding's."""
    stored = torch.load(job.problem)
    return own.relative_error(_built(ranks, job, stored, torch.float64)(), stored["first truth"])


def _built(ranks: Ranks, job: Job, stored: dict[str, Any], dtype: torch.dtype) -> own.Engine:
    """The engine on the stored weights and tasks; in float64 on the first task."""
    model, device = job.row.model(), torch.device(job.device)
    model.load_state_dict(stored["weights"])
    xs, ys, xq, yq = stored["tasks"]
    tasks = Task(Batch(xs, ys), Batch(xq, yq))
    if dtype == torch.float64:
        tasks = to(first_task(tasks), torch.float64)
    tasks = to(tasks, device)
    more: dict[str, Any] = {}
    if job.engine == "learn2learn":
        more["folder"] = job.learn2learn
    if job.engine == "workers":
        more["ranks"] = ranks
    run = ENGINES[job.engine](model.to(device, dtype).train(), job.row, tasks, **more)
    return _finished(run, device)


def _finished(run: own.Engine, device: torch.device) -> own.Engine:
    """On CUDA a call returns before its work is done: wait for it."""
    if device.type != "cuda":
        return run

    def waited() -> list[Any]:
        found = run()
        torch.cuda.synchronize(device)
        return found

    return waited


def _times(ranks: Ranks, job: Job, run: own.Engine, seconds: float, fewest: int) -> list[float]:
    """Seconds of each call: as many as fit, and at least `fewest`.

    Where more than that is asked for, one call goes before them: another engine has had the caches.
    """
    if seconds:
        run()
    taken: list[float] = []
    while ranks.agree(int(sum(taken) < seconds or len(taken) < fewest)):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


def _memory(ranks: Ranks, job: Job, run: own.Engine, seconds: float) -> float:
    """The median peak in bytes over base, of up to three calls; all ranks together."""
    end, found = time.perf_counter() + seconds, list[int]()
    while ranks.agree(int(not found or (len(found) < 3 and time.perf_counter() < end))):
        found.append(peak_memory(run, torch.device(job.device))[0])
    total = torch.tensor(statistics.median(found), dtype=torch.float64)
    if ranks.size > 1:
        dist.all_reduce(total)
    return float(total)

"""Tasks over several processes: each adapts its share, one all-reduce sums the meta-gradient.

Every rank draws the same tasks from the same stream and keeps its rows, so the meta-gradient is
that of one process to rounding, and all ranks take the same outer step. No wrapper stands around
the model: such wrappers do not synchronise second-order gradients.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from ..core.types import Batch, MetaGradient, Params, Task


@dataclass(frozen=True)
class Ranks:
    """This process among `size`; with size 1 everything here is the identity."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes files and tells observers."""
        return self.rank == 0

    def own(self, tasks: Task) -> Task:
        """This rank's rows: as equal shares as possible.

        Raises ValueError when there are fewer tasks than ranks.
        """
        n = len(tasks.support.x)
        if n < self.size:
            raise ValueError(
                f"expected at least one task per worker, got a meta-batch of {n} for {self.size} "
                f"workers; use --workers {n} or a larger train.meta_batch"
            )
        first, stop = self._bounds(n)
        return Task(*(Batch(b.x[first:stop], b.y[first:stop]) for b in tasks))

    def mean(self, found: MetaGradient, tasks: int) -> MetaGradient:
        """The mean over all `tasks` of every rank's means over its own; stats in task order."""
        if self.size == 1:
            return found
        first, stop = self._bounds(tasks)
        share = (stop - first) / tasks
        stats = {k: v.new_zeros(tasks, dtype=found.loss.dtype) for k, v in found.stats.items()}
        for k, v in found.stats.items():
            stats[k][first:stop] = v
        tree = (
            {"loss": found.loss * share}
            | {"grad " + k: v * share for k, v in found.grads.items()}
            | {"memory " + k: v * share for k, v in found.memory.items()}
            | {"stats " + k: v for k, v in stats.items()}
        )
        total = _summed(tree)

        def part(prefix: str) -> Params:
            return {k[len(prefix) :]: v for k, v in total.items() if k.startswith(prefix)}

        seen = {k: v.to(found.stats[k].dtype) for k, v in part("stats ").items()}
        return MetaGradient(total["loss"], part("grad "), seen, part("memory "))

    def agree(self, number: int) -> int:
        """The largest `number` over the ranks: a signal to one of them stops all."""
        if self.size == 1:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def latest(self, seconds: float) -> float:
        """The time of the slowest rank, so that schedules by time agree."""
        return seconds if self.size == 1 else self.agree(int(1e6 * seconds)) / 1e6

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()

    def _bounds(self, n: int) -> tuple[int, int]:
        return n * self.rank // self.size, n * (self.rank + 1) // self.size


def spawn(workers: int, function: Callable[..., Any], *arguments: Any) -> None:
    """Run `function(ranks, *arguments)` in `workers` processes of this machine.

    SIGTERM is handed on to all of them. If one dies the others are stopped, and an error says so;
    the run can then be resumed from its last checkpoint.
    """
    port = _free_port()
    context = mp.start_processes(
        _enter, (workers, port, function, arguments), workers, join=False, start_method="spawn"
    )

    def hand_on(signum: int, frame: object) -> None:
        for pid in context.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    before = {s: signal.signal(s, hand_on) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not context.join():
            pass
    except mp.ProcessExitedException as stop:
        # The workers end with the exit code of the command; a killed one has a negative code.
        if stop.exit_code > 0:
            raise SystemExit(stop.exit_code) from None
        raise ValueError(
            f"worker {stop.error_index} was killed ({stop.signal_name or stop.exit_code}) and the "
            "others were stopped; go on from the last checkpoint with --resume"
        ) from None
    except mp.ProcessRaisedException as error:
        line = str(error).strip().splitlines()[-1]
        raise ValueError(
            f"worker {error.error_index}: {line.partition(': ')[2] or line}"
        ) from error
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _enter(
    rank: int, workers: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    # Each worker computes on one core: threads of several workers would wait for each other.
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers
    )
    try:
        function(Ranks(rank, workers), *arguments)
    finally:
        dist.destroy_process_group()


def _summed(tree: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sum over ranks, sent as one flat vector."""
    flat = torch.cat([v.reshape(-1) for v in tree.values()])
    dist.all_reduce(flat)
    pieces = flat.split([v.numel() for v in tree.values()])
    return {k: p.view(v.shape).to(v.dtype) for (k, v), p in zip(tree.items(), pieces, strict=True)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""Tasks over several processes: each adapts its share, one all-reduce sums the meta-gradient.

Every rank takes its rows of the same tasks from the same stream, so the meta-gradient is that of
one process to rounding, and all ranks take the same outer step. No wrapper stands around the model:
such wrappers do not synchronise second-order gradients.

torchrun starts the processes, on any number of machines, or `workers.spawn` does it on this one;
both say who is who by the same environment variables, and `joined` reads them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...core.types import MetaGradient, Params, Task, count, rows
from ...data.source import Source, Tasks
from .meeting import meet

ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells every process that it starts; LOCAL_RANK besides."""
PATIENCE = timedelta(minutes=10)
"""How long a rank waits for the others. A process that dies is noticed at once."""


class LostRank(ConnectionError):
    """Another rank has died or does not answer; nothing of the step in progress was stored."""


@dataclass(frozen=True)
class Ranks:
    """This process among `size`, number `local` of its machine.

    With size 1 everything here is the identity.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this rank writes files and tells observers."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """`train.device` for this rank: of several, each takes the CUDA device of its number.

        Raises ValueError for other accelerators, and for more ranks on a machine than devices.
        """
        if self.size == 1:
            return name
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name not in ("cpu", "cuda"):
            raise ValueError(
                "several ranks compute on 'cpu', or on 'cuda', where each takes the device of its "
                f"own number; got train.device={name!r}; use --train.device cuda (or cpu)"
            )
        here = torch.cuda.device_count() if name == "cuda" else 0
        if not here:
            return name
        if self.local >= here:
            raise ValueError(
                f"expected at most one rank per CUDA device, got rank {self.rank} as number "
                f"{self.local + 1} of a machine with {here}; start {here} per machine, or use "
                "--train.device cpu"
            )
        torch.cuda.set_device(self.local)
        return f"cuda:{self.local}"

    def enough(self, tasks: int) -> None:
        """Raises ValueError when there are fewer tasks than ranks: some would have no work."""
        if tasks < self.size:
            raise ValueError(
                f"expected at least one task per rank, got a meta-batch of {tasks} for "
                f"{self.size} ranks; start at most {tasks} (--workers, or torchrun's "
                "--nproc-per-node), or use a larger train.meta_batch"
            )

    def own(self, tasks: Task) -> Task:
        """This rank's rows: as equal shares as possible.

        Raises ValueError when there are fewer tasks than ranks.
        """
        if self.size == 1:
            return tasks
        n = count(tasks)
        self.enough(n)
        return rows(tasks, slice(*self.bounds(n)))

    def draw(self, source: Source, generator: torch.Generator, n: int) -> Tasks:
        """This rank's rows of the `n` tasks that `source` draws. Raises ValueError as `own`."""
        if self.size == 1:
            return source.tasks(generator, n)
        self.enough(n)
        return source.rows(generator, n, *self.bounds(n))

    def mean(self, found: MetaGradient, tasks: int) -> MetaGradient:
        """The mean over all `tasks` of every rank's means over its own; stats in task order.

        One all-reduce of one flat vector: loss, gradients and memory, weighted by this rank's
        share of the tasks, and one row of all tasks for each of the stats, zero but for its own.
        """
        if self.size == 1:
            return found
        first, stop = self.bounds(tasks)
        means = {
            ("loss", ""): found.loss,
            **{("grads", k): v for k, v in found.grads.items()},
            **{("memory", k): v for k, v in found.memory.items()},
        }
        stats = found.loss.new_zeros(len(found.stats), tasks)
        for row, values in zip(stats, found.stats.values(), strict=True):
            row[first:stop] = values
        parts = [*means.values(), stats]
        flat = torch.cat([v.detach().reshape(-1) for v in parts])
        flat[: len(flat) - stats.numel()].mul_((stop - first) / tasks)
        self.add_up(flat)
        *sums, seen = (
            piece.view(v.shape).to(v.dtype)
            for piece, v in zip(flat.split([v.numel() for v in parts]), parts, strict=True)
        )
        total = dict(zip(means, sums, strict=True))

        def part(name: str) -> Params:
            return {k: v for (kind, k), v in total.items() if kind == name}

        return MetaGradient(
            total["loss", ""],
            part("grads"),
            {k: row.to(v.dtype) for (k, v), row in zip(found.stats.items(), seen, strict=True)},
            part("memory"),
        )

    def add_up(self, values: Tensor) -> None:
        """Put the sum over the ranks in the place of `values`, the same bits on each.

        Raises LostRank.
        """
        if self.size > 1:
            with _answered():
                dist.all_reduce(values)

    def agree(self, number: int) -> int:
        """The largest `number` over the ranks. Raises LostRank."""
        if self.size == 1:
            return number
        value = torch.tensor(number)
        with _answered():
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def latest(self, seconds: float) -> float:
        """The time of the slowest rank, so that schedules by time agree."""
        return seconds if self.size == 1 else self.agree(int(1e6 * seconds)) / 1e6

    def wait(self) -> None:
        """Until every rank is here. Raises LostRank."""
        self.agree(0)

    def start_equal(self, module: nn.Module, step: int) -> None:
        """Give every rank the parameters of the first, after the check that all are at `step`.

        Raises ValueError when they are not: they did not read the same checkpoint.
        """
        if self.size == 1:
            return
        highest, lowest = self.agree(step), -self.agree(-step)
        if lowest < highest:
            raise ValueError(
                f"expected all ranks at one step, got some at step {lowest} and some at {highest}: "
                "they do not see the same checkpoints; put the run's folder (--run) on a disk that "
                "all machines share"
            )
        with _answered():
            for parameter in module.parameters():
                values = parameter.detach().contiguous()
                dist.broadcast(values, 0)
                parameter.detach().copy_(values)

    def bounds(self, n: int) -> tuple[int, int]:
        """The first of this rank's rows of `n`, and the one after its last."""
        return n * self.rank // self.size, n * (self.rank + 1) // self.size


def launched() -> bool:
    """Whether torchrun, or what speaks like it, has started this process."""
    return all(name in os.environ for name in ENVIRONMENT)


def restarted() -> bool:
    """Whether torchrun has started this process again, after one of the group was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """This process's place among those that were launched with it; gloo on CPU, NCCL on CUDA."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if size == 1:
        yield Ranks()
        return
    # The defaults of its functions are the group at import: if torch._dynamo imports it later, they
    # keep the group and its threads alive into the interpreter's end, which then aborts.
    import torch.distributed.nn.functional

    cuda = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    with _answered():
        store = meet(rank, size, PATIENCE)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield Ranks(rank, size, int(os.environ.get("LOCAL_RANK", 0)))
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """Failures of the transport, which torch raises as RuntimeError, as LostRank."""
    try:
        yield
    except RuntimeError as error:
        said = (str(error).strip() or repr(error)).splitlines()[0].split(". ")[0]
        raise LostRank(f"another rank was lost or does not answer ({said})") from error

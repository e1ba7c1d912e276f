"""Worker processes of this machine, without torchrun.

torch's own launcher for functions (`torch.distributed.launcher.api.elastic_launch`) was tried in
its place: it kills workers that need longer than a fixed time to save after a signal, reports a
worker's error as several tracebacks, and leaves its signal handlers in the caller's process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ..interrupt import SIGNALS, handled_by
from .ranks import ENVIRONMENT, joined

GRACE = 30.0
"""Seconds in which workers may end by themselves, and save, when one of them has died."""


def spawn(workers: int, function: Callable[..., Any], *arguments: Any) -> None:
    """Run `function(ranks, *arguments)` in `workers` processes of this machine.

    Signals that ask to stop (see `train.interrupt`) are handed on to all of them.

    Raises:
        SystemExit: workers have ended with an exit code, or by a signal that was handed on.
        ValueError: one has failed or was killed, and the others were stopped; the run can be
            resumed from its last checkpoint.
    """
    # The store that workers meet at lives here, on a port that the system chose and that nobody can
    # take meanwhile, and is reached from this machine alone.
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    store = dist.TCPStore(
        "127.0.0.1",
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    context = mp.start_processes(
        _enter, (workers, port, function, arguments), workers, join=False, start_method="spawn"
    )
    with _handing_on(context) as received:
        try:
            while not context.join(grace_period=GRACE):
                pass
        except mp.ProcessExitedException as stop:
            # Workers end with the exit code of the command; a killed one has a negative code.
            if stop.exit_code > 0:
                raise SystemExit(stop.exit_code) from None
            if -stop.exit_code in received:
                raise SystemExit(128 - stop.exit_code) from None
            raise ValueError(
                f"worker {stop.error_index} was killed ({stop.signal_name or stop.exit_code}) and "
                "the others were stopped; go on from the last checkpoint with --resume"
            ) from None
        except mp.ProcessRaisedException as error:
            line = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"worker {error.error_index}: {line.partition(': ')[2] or line}"
            ) from error
        finally:
            del store


@contextlib.contextmanager
def _handing_on(context: Any) -> Iterator[list[int]]:
    """Within the block, signals go to the processes of `context`; those that came are listed."""
    received: list[int] = []

    def hand_on(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        for pid in context.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    with handled_by(hand_on):
        yield received


def _enter(
    rank: int, workers: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    # Each worker computes on one core: threads of several workers would wait for each other.
    torch.set_num_threads(1)
    # A terminal sends Ctrl-C to a whole session: it would come twice, from there and handed on.
    if hasattr(os, "setsid"):
        os.setsid()
    values = (rank, workers, "127.0.0.1", port)
    os.environ |= {k: str(v) for k, v in zip(ENVIRONMENT, values, strict=True)}
    os.environ |= {"LOCAL_RANK": str(rank), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    try:
        with joined() as ranks:
            function(ranks, *arguments)
    finally:
        # What there was to save is saved: one more signal must not turn the end into a kill.
        for signum in SIGNALS:
            signal.signal(signum, signal.SIG_IGN)

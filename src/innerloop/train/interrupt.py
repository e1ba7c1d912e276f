"""Ctrl-C and SIGTERM ask a run to stop after the current step; a second Ctrl-C stops it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType


class Interrupted(BaseException):
    """A run stopped by a signal, after its checkpoint was written."""

    def __init__(self, signum: int, step: int, run_dir: Path) -> None:
        self.signum, self.step, self.run_dir = signum, step, run_dir
        super().__init__(
            f"stopped by {signal.Signals(signum).name} after step {step}; the checkpoint is "
            f"written. Resume with: innerloop train {run_dir} --resume"
        )


class Stop:
    """Whether a signal has asked to stop, and which."""

    signum: int | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Within the block, SIGINT and SIGTERM are noted instead of obeyed (main thread only)."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

"""Signals ask a run to stop: the first one after the current step, the second within it.

Neither loses a step that was complete: the state after it is saved.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Ctrl-C, the polite kill of batch systems, and the end of a terminal (not on Windows)."""


class Interrupted(BaseException):
    """Work stopped by a signal; for a run, after its checkpoint was written."""

    def __init__(self, signum: int, step: int | None = None, run_dir: Path | None = None) -> None:
        self.signum, self.step, self.run_dir = signum, step, run_dir
        said = f"stopped by {signal.Signals(signum).name}"
        if step is not None:
            said += f" after step {step}"
        if run_dir is not None:
            said += f"; the checkpoint is written. Resume with: innerloop train {run_dir} --resume"
        super().__init__(said)


class Stop:
    """Whether a signal has asked to stop, and which. A signal handler, and what loops look at."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._again = False
        self._holds = 0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self._again = self.signum is not None
        self.signum = signum if self.signum is None else self.signum
        if self._again and not self._holds:
            self._again = False
            raise KeyboardInterrupt

    def obeyed(self) -> None:
        """From here on no signal interrupts: the work ends as it was asked to."""
        self._holds += 1

    def check(self) -> None:
        """Raises Interrupted if a signal came: for loops that have nothing to save."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within the block a second signal waits for its end: what is in there is done whole."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if self._again and not self._holds:
            self._again = False
            raise KeyboardInterrupt


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Within the block, signals are noted instead of obeyed (main thread only).

    The second one raises KeyboardInterrupt, except where the `Stop` is `held`. Signals that the
    process ignores (`nohup`) stay ignored.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    with handled_by(stop):
        yield stop


@contextlib.contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within the block, `handler` takes the signals that the process does not ignore."""
    before = {s: signal.getsignal(s) for s in SIGNALS}
    taken = [s for s, earlier in before.items() if earlier is not signal.SIG_IGN]
    for signum in taken:
        signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum in taken:
            signal.signal(signum, before[signum])


@contextlib.contextmanager
def listening(stop: Stop | None, signals: bool) -> Iterator[Stop]:
    """What the caller gave, or the signals of this process, or nothing that would ever stop."""
    if stop is None and signals:
        with stopping() as stop:
            yield stop
    else:
        yield stop or Stop()

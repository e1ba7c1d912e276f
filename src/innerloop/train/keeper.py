"""What a run leaves behind: a folder with checkpoints and metrics, or the same in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from torch import Tensor, nn

from . import checkpoint
from .checkpoint import State, badness
from .lock import locked
from .log import WRITTEN, MetricsFile, Record, TensorBoard
from .settings import Settings

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Kept:
    """The weights of one validation: `weights` is the method's state_dict, on the CPU."""

    step: int
    score: float
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Trained:
    """What a run has come to; the method holds the weights of its last step.

    `seconds` is the time in steps and validations, `optimizer` the outer optimiser's state_dict
    (and the weights of groups of tasks), `best_score` the best validation score (larger
    is better) and `best_step` its step. A run without a folder also has its records, `metrics`, and
    in `best` the weights of its `keep_best` best validations, best first; both are empty where a
    folder holds them.
    """

    step: int
    seconds: float
    optimizer: Mapping[str, Any]
    best_score: float | None = None
    best_step: int | None = None
    best: Sequence[Kept] = ()
    metrics: Sequence[dict[str, Any]] = ()


class Keeper(Protocol):
    """What the loop asks of its memory. It is an observer of every record, too."""

    def __enter__(self) -> Keeper: ...

    def __exit__(self, *error: Any) -> None: ...

    def __call__(self, record: Record) -> None: ...

    def restore(
        self, method: nn.Module, restore: Callable[[State], None], resume: bool
    ) -> tuple[State | None, list[str]]:
        """The state to go on from, if there is one, and what was found damaged."""
        ...

    def open(self, state: State) -> list[str]:
        """Begin to keep records, those after `state`; returns warnings."""
        ...

    def save(self, method: nn.Module, state: State) -> Path | None:
        """Keep the state; returns the place it has been written to, if there is one."""
        ...

    def validated(self, method: nn.Module, state: State, score: float) -> None:
        """A validation has ended; `state.best_step` is its step if it is the best."""
        ...


class InFolder:
    """Checkpoints, best weights, metrics.jsonl and TensorBoard files of a run's folder.

    Only the `first` of several ranks writes; all of them read.
    """

    def __init__(self, run_dir: Path, settings: Settings, *, first: bool) -> None:
        self._run_dir, self._settings, self._first = run_dir, settings, first
        self._metrics: MetricsFile | None = None
        self._files: list[MetricsFile | TensorBoard] = []
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> InFolder:
        if self._first:
            self._lock.enter_context(locked(self._run_dir))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            for file in self._files:
                file.close()

    def __call__(self, record: Record) -> None:
        for file in self._files:
            file(record)

    def restore(
        self, method: nn.Module, restore: Callable[[State], None], resume: bool
    ) -> tuple[State | None, list[str]]:
        if resume:
            return checkpoint.load_newest(self._run_dir, method, restore)
        metrics = self._run_dir / METRICS
        written = metrics.exists() and metrics.stat().st_size > 0
        if written or checkpoint.found(self._run_dir):
            raise ValueError(
                f"{self._run_dir} already holds a run; go on with it: innerloop train "
                f"{self._run_dir} --resume, or choose another folder: --run DIR"
            )
        return None, []

    def open(self, state: State) -> list[str]:
        if not self._first:
            return []
        checkpoint.clear_drafts(self._run_dir)
        self._metrics = MetricsFile(
            self._run_dir / METRICS, after_step=state.step, written=state.metrics
        )
        self._files.append(self._metrics)
        if self._settings.tensorboard:
            self._files.append(TensorBoard(self._run_dir / "tensorboard", after_step=state.step))
        return self._metrics.warnings

    def save(self, method: nn.Module, state: State) -> Path | None:
        if self._metrics is None:
            return None
        state.metrics = self._metrics.position()
        return checkpoint.save(self._run_dir, method, state, self._settings.keep_last)

    def validated(self, method: nn.Module, state: State, score: float) -> None:
        if self._metrics is None:
            return
        if state.best_step == state.step:
            checkpoint.save_best(self._run_dir, method, state)
        if self._settings.keep_best > 1:
            checkpoint.save_ranked(
                self._run_dir, method, state.step, score, self._settings.keep_best
            )
        state.metrics = self._metrics.position()
        checkpoint.save_validation(self._run_dir, state)


class InMemory:
    """The records of a run and the weights of its best validations, best first; no file."""

    def __init__(self, settings: Settings) -> None:
        self.metrics: list[dict[str, Any]] = []
        self.best: list[Kept] = []
        self._keep = settings.keep_best

    def __enter__(self) -> InMemory:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def __call__(self, record: Record) -> None:
        if record["event"] in WRITTEN:
            self.metrics.append(dict(record))

    def restore(
        self, method: nn.Module, restore: Callable[[State], None], resume: bool
    ) -> tuple[State | None, list[str]]:
        if resume:
            raise ValueError("resume=True needs a folder with the run's checkpoints: run_dir=...")
        return None, []

    def open(self, state: State) -> list[str]:
        return []

    def save(self, method: nn.Module, state: State) -> Path | None:
        return None

    def validated(self, method: nn.Module, state: State, score: float) -> None:
        ranks = [(badness(kept.score), kept.step) for kept in self.best]
        if len(ranks) == self._keep and (badness(score), state.step) > ranks[-1]:
            return
        weights = {k: v.detach().cpu().clone() for k, v in method.state_dict().items()}
        self.best.append(Kept(state.step, score, weights))
        self.best.sort(key=lambda kept: (badness(kept.score), kept.step))
        del self.best[self._keep :]

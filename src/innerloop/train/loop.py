"""The outer loop, for every method and every source of tasks.

Step i draws its tasks from the stream (seed, "train", i) and seeds torch from (seed, "step", i), so
a step depends on the state before it and on nothing else: a resumed run repeats the bits of one
that was never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import streams
from ..core.types import MetaGradient, Task
from ..data.source import Splits
from . import checkpoint
from .baseline import Trainable
from .checkpoint import State
from .execution import apply_engine
from .interrupt import Interrupted, Stop, stopping
from .log import MetricsFile, Observer, TensorBoard
from .objective import OuterProblem
from .outer import NonFiniteError, OuterOptimizer
from .ranks import LostRank, Ranks
from .settings import Settings
from .validate import unadapted, validate

SIGNAL = "signal"
"""Among the stats of several ranks: the signal that this rank has received, or 0."""


def train(
    method: Trainable,
    splits: Splits,
    settings: Settings,
    *,
    seed: int,
    run_dir: Path,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    ranks: Ranks | None = None,
) -> State:
    """Train `method` in place until `settings.iterations`; checkpoints and metrics go to `run_dir`.

    With `resume` the run goes on from its newest readable checkpoint, or starts if it has none.
    `observers` are called with every record (see `train.log.Record`). With several `ranks` each
    adapts its share of every meta-batch and of the validation; only the first writes and tells
    observers. Every rank reads the checkpoints, so machines share `run_dir`.

    Raises:
        ValueError: `run_dir` already holds a run and `resume` is false; fewer tasks than ranks.
        CheckpointError: a checkpoint is damaged, foreign, or could not be written.
        NonFiniteError: a loss or meta-gradient was not finite; the state before it is saved.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
        LostRank: another rank died; the state before the step in progress is saved.
    """
    if not resume and (checkpoint.found(run_dir) or (run_dir / "metrics.jsonl").exists()):
        raise ValueError(
            f"{run_dir} already holds a run; go on with it: innerloop train {run_dir} --resume, "
            "or choose another folder: --run DIR"
        )
    ranks = ranks or Ranks()
    ranks.enough(settings.meta_batch)
    outer = OuterOptimizer(method, settings)
    objective = OuterProblem(method, splits, settings, seed, ranks)
    state, damaged = checkpoint.load_newest(run_dir, method) if resume else (None, [])
    if state is None:
        state = State()
    else:
        objective.load_state_dict(state.optimizer)
        outer.optimizer.load_state_dict(state.optimizer)
        if state.rng is not None:
            torch.set_rng_state(state.rng)
    ranks.start_equal(method, state.step)
    apply_engine(method, settings)
    files: list[MetricsFile | TensorBoard] = []
    try:
        if ranks.first:
            checkpoint.clear_drafts(run_dir)
            files.append(MetricsFile(run_dir / "metrics.jsonl", after_step=state.step))
            if settings.tensorboard:
                files.append(TensorBoard(run_dir / "tensorboard", after_step=state.step))
        told = [*files, *observers] if ranks.first else []
        with stopping() as stop:
            run = _Run(
                method, splits, settings, seed, run_dir, outer, objective, state, told, ranks, stop
            )
            for warning in damaged:
                run.tell("warning", text=f"{warning}; going on from step {state.step}")
            run.go()
    finally:
        for file in files:
            file.close()
    return state


class _Run:
    """One run in progress: the pieces, the state, and the clock."""

    def __init__(
        self,
        method: Trainable,
        splits: Splits,
        settings: Settings,
        seed: int,
        run_dir: Path,
        outer: OuterOptimizer,
        objective: OuterProblem,
        state: State,
        observers: Sequence[Callable[[dict[str, Any]], None]],
        ranks: Ranks,
        stop: Stop,
    ) -> None:
        self.method, self.splits, self.settings, self.seed = method, splits, settings, seed
        self.objective, self.ranks, self.stop, self.signum = objective, ranks, stop, 0
        self.run_dir, self.outer, self.state, self.observers = run_dir, outer, state, observers
        self.window = [
            {k: v[i] for k, v in state.window.items()}
            for i in range(len(next(iter(state.window.values()), ())))
        ]
        self.saved = state.step if checkpoint.found(run_dir) else -1
        self.before: dict[str, float] = {}

    def go(self) -> None:
        settings, state = self.settings, self.state
        self.tell(
            "start", step=state.step, iterations=settings.iterations, minutes=settings.minutes
        )
        try:
            self.iterate()
        except LostRank as error:
            raise LostRank(
                f"{error}; stopped after step {state.step}. Go on from the last checkpoint with: "
                f"innerloop train {self.run_dir} --resume"
            ) from None
        self.save()
        self.tell("end", step=state.step, seconds=state.seconds)

    def iterate(self) -> None:
        settings, state = self.settings, self.state
        while state.step < settings.iterations and not self.late():
            started = time.perf_counter()
            self.step()
            seconds = time.perf_counter() - started
            self.window[-1]["step_seconds"] = torch.tensor(seconds)
            state.seconds += seconds
            if settings.minutes is not None:
                state.seconds = self.ranks.latest(state.seconds)
            if len(self.window) >= settings.log_every:
                self.log()
            if settings.validate_every and state.step % settings.validate_every == 0:
                self.validate()
            if settings.checkpoint_every and state.step % settings.checkpoint_every == 0:
                self.save()
            if self.signalled():
                self.save()
                raise Interrupted(self.signalled(), state.step, self.run_dir)
        if self.window:
            self.log()
        if settings.validate_every and state.step % settings.validate_every:
            self.validate()

    def signalled(self) -> int:
        """The signal to stop: of several ranks, what they agreed on in the last step."""
        return self.signum if self.ranks.size > 1 else self.stop.signum or 0

    def late(self) -> bool:
        minutes = self.settings.minutes
        return minutes is not None and self.state.seconds >= 60 * minutes

    def progress(self) -> float:
        """The fraction of the run that is over: by steps, or by time if that is further along."""
        done = self.state.step / self.settings.iterations
        if self.settings.minutes is None:
            return done
        return min(1.0, max(done, self.state.seconds / (60 * self.settings.minutes)))

    def step(self) -> None:
        """Draw tasks, estimate the meta-gradient, update; `state.step` counts it only then."""
        step, progress = self.state.step, self.progress()
        stream = streams.generator(self.seed, "train", step)
        own = self.ranks.draw(self.splits.train, stream, self.settings.meta_batch)
        try:
            result = self.gradient(own, progress)
        except LostRank:
            self.save()
            raise
        try:
            norm = self.outer.update(result, progress, f"at step {step}")
        except NonFiniteError as error:
            self.save()
            raise NonFiniteError(self.advice(error)) from None
        self.objective.ascend(step, result)
        self.window.append(_numbers(result, norm))
        self.state.step = step + 1

    def gradient(self, own: Task, progress: float) -> MetaGradient:
        """The meta-gradient; with it travels what else the ranks must know, a value per task."""
        ready = len(self.window) + 1 >= self.settings.log_every
        notes = unadapted(self.method, self.splits, own) if ready else {}
        _seed(streams.derive(self.seed, "step", self.state.step))
        found = self.objective.meta_gradient(self.state.step, own, progress)
        stats = {**found.stats, **notes}
        if self.ranks.size > 1:
            noted = found.loss.new_tensor(self.stop.signum or 0)
            stats[SIGNAL] = noted.expand(len(next(iter(stats.values()))))
        result = self.ranks.mean(replace(found, stats=stats), self.settings.meta_batch)
        self.method.commit(result)
        self.before = {k: float(result.stats.pop(k).mean()) for k in notes} or self.before
        if self.ranks.size > 1:
            self.signum = int(result.stats.pop(SIGNAL).max())
        return result

    def advice(self, error: NonFiniteError) -> str:
        return (
            f"{error}; the update was not made and the state before it is saved in {self.run_dir}. "
            f'The tasks are train.sample(streams.generator({self.seed}, "train", '
            f"{self.state.step}), {self.settings.meta_batch}). Lower method.lr or train.lr, or set "
            "train.clip_norm, and start again in another folder"
        )

    def log(self) -> None:
        """One record: the means of the window."""
        state = self.state
        means = {k: float(v.double().mean()) for k, v in self.stacked().items()}
        self.tell(
            "train",
            step=state.step,
            **means,
            **self.before,
            tasks_per_second=self.settings.meta_batch / means["step_seconds"],
            **self.outer.rates(),
            **self.objective.numbers(),
            seconds=round(state.seconds, 3),
        )
        self.window = []

    def validate(self) -> None:
        settings, state = self.settings, self.state
        numbers = validate(
            self.method,
            self.splits.validation,
            seed=self.seed,
            tasks=settings.validate_tasks,
            batch=settings.meta_batch,
            steps=settings.validate_steps,
            ranks=self.ranks,
        )
        score = numbers.pop("score")
        best = state.best_score
        if best is None or math.isnan(best) or score > best:
            state.best_score, state.best_step = score, state.step
            if self.ranks.first:
                checkpoint.save_best(self.run_dir, self.method, state)
        if settings.keep_best > 1 and self.ranks.first:
            checkpoint.save_ranked(self.run_dir, self.method, state.step, score, settings.keep_best)
        self.tell("validation", step=state.step, **numbers, best_step=state.best_step)

    def save(self) -> None:
        if self.saved == self.state.step or not self.ranks.first:
            return
        self.state.optimizer = self.outer.optimizer.state_dict() | self.objective.state_dict()
        self.state.window = self.stacked()
        self.state.rng = torch.get_rng_state()
        place = checkpoint.save(self.run_dir, self.method, self.state, self.settings.keep_last)
        self.saved = self.state.step
        self.tell("checkpoint", step=self.state.step, path=str(place))

    def stacked(self) -> dict[str, Tensor]:
        if not self.window:
            return {}
        return {k: torch.stack([w[k].cpu() for w in self.window]) for k in self.window[0]}

    def tell(self, event: str, **numbers: Any) -> None:
        record = {"event": event, **numbers}
        for observer in self.observers:
            observer(record)


def _seed(seed: int) -> None:
    """`torch.manual_seed` without its queue for devices never used: 8 % of a step on a sine net."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _numbers(result: MetaGradient, norm: float) -> dict[str, Tensor]:
    """What the window keeps of a step: no gradient, no graph."""
    kept = {k: v.detach() for k, v in result.stats.items()}
    return {**kept, "loss": result.loss.detach(), "grad_norm": torch.tensor(norm)}

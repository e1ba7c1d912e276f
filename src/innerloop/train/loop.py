"""The outer loop, for every method and every source of tasks.

Step i draws its tasks from the stream (seed, "train", i) and seeds torch from (seed, "step", i), so
a step depends on the state before it and on nothing else: a resumed run repeats the bits of one
that was never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..core import streams
from ..core.types import MetaGradient
from ..data.source import Splits, Tasks
from .baseline import Trainable
from .checkpoint import State, badness
from .execution import apply_engine
from .interrupt import Interrupted, Stop, listening
from .keeper import InFolder, InMemory, Keeper, Trained
from .log import Observer
from .objective import OuterProblem
from .outer import NonFiniteError, OuterOptimizer
from .pace import Pace
from .ranks import LostRank, Ranks
from .settings import Settings
from .validate import GivenUp, unadapted, validate
from .window import Window, numbers_of, stacked, unstacked

SIGNAL = "signal"
"""Among the stats of several ranks: the signal that this rank has received, or 0."""


GRACE = 1.1
"""A validation may overrun the time of the run by a tenth; then it is given up."""


def train(
    method: Trainable,
    splits: Splits,
    settings: Settings,
    *,
    seed: int,
    run_dir: Path | None = None,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    ranks: Ranks | None = None,
    stop: Stop | None = None,
) -> Trained:
    """Train `method` in place until `settings.iterations`; checkpoints and metrics go to `run_dir`.

    Without a folder everything stays in memory, and signals are left alone. With `resume` the run
    goes on from its newest good checkpoint, or starts if it has none. `observers` are called with
    every record (see `train.log.Record`). With several `ranks` each adapts its share of every
    meta-batch and of the validation; only the first writes and tells observers. Every rank reads
    the checkpoints, so machines share `run_dir`. `stop` is looked at in place of signals (see
    `train.interrupt.stopping`).

    Raises:
        ValueError: `run_dir` already holds a run and `resume` is false; another process trains in
            it; fewer tasks than ranks.
        CheckpointError: a checkpoint is damaged, foreign, or could not be written.
        NonFiniteError: a loss, meta-gradient or update was not finite; the state before it is
            saved. So it is before any other error of a step is raised.
        Interrupted: SIGINT, SIGTERM or SIGHUP came; the state is saved.
        LostRank: another rank died; the state before the step in progress is saved.
    """
    ranks = ranks or Ranks()
    ranks.enough(settings.meta_batch)
    outer = OuterOptimizer(method, settings)
    objective = OuterProblem(method, splits, settings, seed, ranks)

    def restore(state: State) -> None:
        objective.load_state_dict(state.optimizer)
        outer.optimizer.load_state_dict(state.optimizer)
        if state.rng is not None:
            torch.set_rng_state(state.rng)

    memory = InMemory(settings)
    keeper = memory if run_dir is None else InFolder(run_dir, settings, first=ranks.first)
    with keeper, listening(stop, run_dir is not None) as stop:
        found, damaged = keeper.restore(method, restore, resume)
        state = found or State()
        ranks.start_equal(method, state.step)
        apply_engine(method, settings)
        run = _Run(
            method=method,
            splits=splits,
            settings=settings,
            seed=seed,
            run_dir=run_dir,
            outer=outer,
            objective=objective,
            state=state,
            observers=[*observers, keeper] if ranks.first else [],
            keeper=keeper,
            ranks=ranks,
            stop=stop,
            saved=-1 if found is None else state.step,
            before=dict(state.before),
            window=unstacked(state.window),
        )
        run.go([f"{warning}; going on from step {state.step}" for warning in damaged])
    return Trained(
        state.step,
        state.seconds,
        state.optimizer,
        state.best_score,
        state.best_step,
        memory.best,
        memory.metrics,
    )


@dataclass
class _Run:
    """One run in progress: the pieces, the state, and the clock.

    `saved` is the step of the last checkpoint, `window` the numbers of the steps that no record has
    reported yet, `before` the last scores without adaptation, and `signum` the signal that several
    ranks have agreed on.
    """

    method: Trainable
    splits: Splits
    settings: Settings
    seed: int
    run_dir: Path | None
    outer: OuterOptimizer
    objective: OuterProblem
    state: State
    observers: Sequence[Observer]
    keeper: Keeper
    ranks: Ranks
    stop: Stop
    saved: int
    before: dict[str, float]
    window: Window
    signum: int = 0
    pace: Pace = field(default_factory=Pace)

    def go(self, warnings: Sequence[str]) -> None:
        settings, state = self.settings, self.state
        self.tell(
            "start", step=state.step, iterations=settings.iterations, minutes=settings.minutes
        )
        # Observers have written the configuration: from here on the folder is one to resume.
        for warning in [*warnings, *self.keeper.open(state)]:
            self.tell("warning", text=warning)
        try:
            self.iterate()
        except KeyboardInterrupt:
            if self.stop.signum is None:
                raise
            raise self.interrupted(self.stop.signum) from None
        except LostRank as error:
            if self.stop.signum is not None:  # the others have stopped by the same signal
                raise self.interrupted(self.stop.signum) from None
            self.save()
            raise LostRank(
                f"{error}; stopped after step {state.step}. Go on from the last checkpoint with: "
                f"innerloop train {self.run_dir} --resume"
            ) from None
        self.tell("end", step=state.step, seconds=state.seconds)

    def iterate(self) -> None:
        """Every step, and what follows it: a record, a checkpoint, and only then a validation."""
        settings, state = self.settings, self.state
        if self.due(settings.validate_every) and state.validated != state.step:
            self.validate()  # the run was stopped before it could
        while not self.over():
            self.step()
            if settings.minutes is not None:
                state.seconds = self.ranks.latest(state.seconds)
            self.report()
            if len(self.window) >= settings.log_every:
                self.log()
            if self.due(settings.checkpoint_every):
                self.save()
            if self.signalled():
                raise self.interrupted(self.signalled())
            if self.due(settings.validate_every) and not self.over():
                self.validate()
        if self.window:
            self.log()
        self.save()
        if settings.validate_every and state.step and state.validated != state.step:
            self.validate()

    def due(self, every: int) -> bool:
        """Whether what is done every so many steps is due after this one."""
        return self.state.step > 0 and every > 0 and self.state.step % every == 0

    def interrupted(self, signum: int) -> Interrupted:
        """The end of a run that was asked to stop, once its state is saved."""
        self.stop.obeyed()
        self.save()
        return Interrupted(signum, self.state.step, self.run_dir)

    def signalled(self) -> int:
        """The signal to stop: of several ranks, what they agreed on in the last step."""
        return self.signum if self.ranks.size > 1 else self.stop.signum or 0

    def over(self) -> bool:
        """Whether no step is left, or no time."""
        return self.state.step >= self.settings.iterations or self.late()

    def late(self, more: float = 0.0, *, grace: float = 1.0) -> bool:
        """Whether the time of the run is over, `more` seconds from the last count on."""
        minutes = self.settings.minutes
        return minutes is not None and self.state.seconds + more >= grace * 60 * minutes

    def progress(self) -> float:
        """The fraction of the run that is over: by steps, or by time if that is further along."""
        done = self.state.step / self.settings.iterations
        if self.settings.minutes is None:
            return done
        return min(1.0, max(done, self.state.seconds / (60 * self.settings.minutes)))

    def step(self) -> None:
        """Draw tasks, estimate the meta-gradient, update; `state.step` counts it only then."""
        step, progress, started = self.state.step, self.progress(), time.perf_counter()
        try:
            stream = streams.generator(self.seed, "train", step)
            own = self.ranks.draw(self.splits.train, stream, self.settings.meta_batch)
            result = self.gradient(own, progress)
        except Exception as error:
            self.save()
            if isinstance(error, ValueError):
                raise ValueError(self.advice(f"{error} at step {step}")) from error
            raise
        with self.stop.held():
            try:
                norm = self.outer.update(result, progress, f"at step {step}")
            except NonFiniteError as error:
                self.save()
                raise NonFiniteError(
                    f"{self.advice(str(error))}. Lower method.lr or train.lr, or set "
                    "train.clip_norm, and start again in another folder"
                ) from None
            self.method.commit(result)
            self.objective.ascend(step, result)
            seconds = time.perf_counter() - started
            self.window.append(numbers_of(result, norm, seconds))
            self.state.step = step + 1
            self.state.seconds += seconds

    def gradient(self, own: Tasks, progress: float) -> MetaGradient:
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
        self.before = {k: float(result.stats.pop(k).mean()) for k in notes} or self.before
        if self.ranks.size > 1:
            self.signum = int(result.stats.pop(SIGNAL).max())
        return result

    def advice(self, error: str) -> str:
        """What went wrong in a step, what has become of the run, and how to see the tasks."""
        saved = (
            "" if self.run_dir is None else f" and the state before it is saved in {self.run_dir}"
        )
        return (
            f"{error}; the update was not made{saved}. The tasks are "
            f'train.sample(streams.generator({self.seed}, "train", {self.state.step}), '
            f"{self.settings.meta_batch})"
        )

    def report(self) -> None:
        """How fast it goes and how long it will take; a warning if that is hours."""
        step_seconds = self.pace.step()
        if not self.observers or not self.pace.due():
            return
        state, minutes = self.state, self.settings.minutes
        left = step_seconds * (self.settings.iterations - state.step)
        if minutes is not None:
            left = min(left, max(0.0, 60 * minutes - state.seconds))
        self.tell("progress", step=state.step, step_seconds=step_seconds, left=left)
        if warning := self.pace.warning(left):
            self.tell("warning", text=warning)

    def log(self) -> None:
        """One record: the means of the window."""
        state = self.state
        means = {k: float(v.double().mean()) for k, v in stacked(self.window).items()}
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
        """Score the method, unless a signal or the end of the run's time comes first."""
        settings, state, began = self.settings, self.state, time.perf_counter()

        def go_on(done: int) -> bool:
            self.tell("validating", step=state.step, done=done, tasks=settings.validate_tasks)
            return self.stop.signum is None and not self.late(
                time.perf_counter() - began, grace=GRACE
            )

        try:
            numbers = validate(
                self.method,
                self.splits.validation,
                seed=self.seed,
                tasks=settings.validate_tasks,
                batch=settings.meta_batch,
                steps=settings.validate_steps,
                ranks=self.ranks,
                go_on=go_on,
            )
        except GivenUp:
            numbers = {}
        except Exception:
            self.save()
            raise
        state.seconds += time.perf_counter() - began
        if settings.minutes is not None:
            state.seconds = self.ranks.latest(state.seconds)
        if numbers:
            self.validated(numbers)
            return
        signum = self.ranks.agree(self.stop.signum or 0)
        if signum:
            raise self.interrupted(signum)
        self.tell(
            "warning",
            text=f"the time of the run ended in the validation after step {state.step}, which was "
            "given up: best weights are those of an earlier one, or if there is none the last "
            "checkpoint's. Fewer train.validate_tasks take less time",
        )

    def validated(self, numbers: dict[str, float]) -> None:
        """Keep what a validation has found: the record, the best weights, and that it is done."""
        state, score = self.state, numbers.pop("score")
        with self.stop.held():
            state.validated = state.step
            best = state.best_score
            if best is None or badness(score) < badness(best):
                state.best_score, state.best_step = score, state.step
            self.tell("validation", step=state.step, **numbers, best_step=state.best_step)
            self.keeper.validated(self.method, state, score)

    def save(self) -> None:
        if self.saved == self.state.step:
            return
        with self.stop.held():
            self.state.optimizer = self.outer.optimizer.state_dict() | self.objective.state_dict()
            self.state.window = stacked(self.window)
            self.state.rng = torch.get_rng_state()
            self.state.before = self.before
            place = self.keeper.save(self.method, self.state)
            self.saved = self.state.step
            if place is not None:
                self.tell("checkpoint", step=self.state.step, path=str(place))

    def tell(self, event: str, **numbers: Any) -> None:
        record = {"event": event, **numbers}
        with self.stop.held():  # a line of metrics is written whole
            for observer in self.observers:
                observer(record)


def _seed(seed: int) -> None:
    """`torch.manual_seed` without its queue for devices never used: 8 % of a step on a sine net."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)

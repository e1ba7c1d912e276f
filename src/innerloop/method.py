"""A method: a learner and an estimator. Everything a user holds in the hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from .call import slots as functional
from .core import checks, trees
from .core import path as loop
from .core.carry import Carry
from .core.contract import Estimator, IterativeLearner
from .core.notices import Notices
from .core.types import Batch, MetaGradient, Params, Task
from .engine import TURN, Engine, Precision, Recorder, check_choice, running
from .estimate.batching import mean_gradient, single_threaded, split
from .learn import FeatureLearner, GradientLearner

FUSED = 2**25
"""Multiply-adds of one task's forward pass up to which a CPU runs all tasks as one batch."""

SHARED_OUT = 2**20
"""Input values of a task up to which a recorded engine runs several tasks at once on a CPU."""


class Method(nn.Module):
    """What is adapted, how, and how it is differentiated, bound to a model.

    `named_parameters()` are the meta-parameters: the model's weights (names ending in
    `model.<name>`) and what the solver learns (`solver.*`).

    `chunk` is the number of tasks run at once: 1 loops over tasks, T runs them as one fused batch;
    results agree to rounding. "auto" is 1 for recurrent layers (`vmap` cannot batch them), and on a
    CPU for convolutions (grouped ones are slower than a loop there) and where one task alone keeps
    a core busy (weights times support rows above `FUSED`), else all tasks.

    Raises ValueError when the estimator cannot differentiate the learner, naming both and the fix.
    """

    def __init__(
        self,
        name: str,
        learner: GradientLearner | FeatureLearner,
        estimator: Estimator,
        *,
        chunk: int | Literal["auto"] = "auto",
    ):
        super().__init__()
        reason = estimator.refuse(learner)
        if reason:
            raise ValueError(reason)
        if chunk != "auto" and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
            raise ValueError(f'expected chunk >= 1 or "auto", got chunk={chunk!r}')
        self.name = name
        self.learner = learner
        self.estimator = estimator
        self.chunk = chunk
        # Walking the module tree at every step would cost more than a small step itself.
        names = {name: name for name, _ in learner.named_parameters()}
        self._slots = functional.slots(learner, names)
        first = next(learner.model.parameters())
        self._first = next((home, key) for home, key, _ in self._slots if home[key] is first)
        self._recorder: Recorder | None = None
        self._notices = Notices()
        self._following = [p for p in (estimator, *learner.modules()) if hasattr(p, "at_progress")]
        self._told_progress = not self._following

    def meta_gradient(
        self, tasks: Task, *, share: Callable[[MetaGradient], MetaGradient] | None = None
    ) -> MetaGradient:
        """The mean query loss over the tasks, and its gradient by this method's estimator.

        `grads` is keyed as `dict(self.named_parameters())`, zeros for what the loss does not
        depend on. `stats` has one value per task: loss, accuracy, and the health of inner solves.
        Random layers and estimators draw once from torch's global generator per call. `share`
        combines this process's result with others' before anything is stored.
        """
        tasks = self._check(tasks)
        if not self._told_progress:
            self._notices.standing()
        with TURN:  # while another thread calls the model, its places hold other weights
            params = {name: home[key] for home, key, name in self._slots}
        lay_out = self.learner.call.laid_out
        with torch.inference_mode(False):
            meta = {
                k: lay_out(p.detach()).requires_grad_(p.requires_grad) for k, p in params.items()
            }
        found = self._run(meta, tasks)
        self._name_untouched(meta, found.grads)
        grads = {
            f"learner.{k}": _like(p, found.grads[k]) if k in found.grads else torch.zeros_like(p)
            for k, p in params.items()
        }
        if self._recorder is None:  # a record has no graph to detach from
            grads = trees.detach(grads)
        found = MetaGradient(found.loss.detach(), grads, found.stats, found.memory)
        found = share(found) if share else found
        if found.memory:
            assert isinstance(self.learner, IterativeLearner)
            self.learner.remember(found.memory)
        self._notices.health(found.stats)
        return found

    def progress(self, fraction: float) -> None:
        """Tell the pieces that change over a training that this fraction of it, 0 to 1, is over.

        They are those with a method `at_progress(fraction)`: estimator, learner, layers. `innerloop
        train` calls this before every outer step; so should a loop of yours with such pieces.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"expected a fraction of the training in [0, 1], got {fraction!r}")
        self._told_progress = True
        for piece in self._following:
            piece.at_progress(fraction)

    def use(self, engine: Engine = "eager", *, precision: Precision = "float32") -> Method:
        """How meta-gradients are executed from now on; returns this method.

        "eager" runs Python and autograd for every chunk of tasks. "traced" records a chunk's tensor
        operations at its first call and replays them afterwards, on as many cores as torch may use,
        each with its own tasks. "compiled" then compiles the record. Results
        agree to rounding; see `innerloop.engine.Recorder` for what is recorded and what cannot be.

        `precision="bfloat16"` runs the model in bfloat16, here and in `adapt` and `query_outputs`;
        weights, losses and inner steps stay in theirs. It is no longer exact: expect errors of 1 to
        30 per cent in the meta-gradient.

        Raises ValueError where this method cannot be recorded, with the reason.
        """
        check_choice("engine", engine, Engine)
        check_choice("precision", precision, Precision)
        recorder = None
        if engine != "eager":
            recorder = Recorder(self.estimator, compiled=engine == "compiled")
            reason = recorder.refuse(self.learner)
            if reason:
                raise ValueError(reason)
        self._recorder = recorder
        self.learner.call.precision = torch.bfloat16 if precision == "bfloat16" else None
        return self

    def loss(self, tasks: Task) -> Tensor:
        """The mean query loss; its `.backward()` adds `meta_gradient(tasks).grads` to `.grad`.

        The gradient is already computed when this returns, so memory stays flat and wrappers see
        an ordinary first-order graph.
        """
        found = self.meta_gradient(tasks)
        trained = {k: p for k, p in self.named_parameters() if p.requires_grad}
        carried: Tensor = Carry.apply(
            found.loss, [found.grads[k] for k in trained], *trained.values()
        )
        return carried

    def forward(self, tasks: Task) -> Tensor:
        """The same as `loss`, for wrappers that call the module."""
        return self.loss(tasks)

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> nn.Module:
        """A plain module adapted to ONE task: support_x (n, ...), support_y (n, ...).

        It is in eval mode, has no graph, and follows the normalisation policy by itself; dropout is
        off while adapting too. `steps` replaces the trained number of inner steps.
        """
        if not isinstance(support_x, Tensor) or not isinstance(support_y, Tensor):
            raise ValueError(
                f"expected tensors, got support_x {type(support_x).__name__} and support_y "
                f"{type(support_y).__name__}; convert with torch.as_tensor"
            )
        support = Batch(support_x.unsqueeze(0), support_y.unsqueeze(0))
        support = self._check(Task(support, support)).support
        with running(self.learner, training=False), torch.no_grad():
            for phi in self._phis(support, steps):
                adapted = phi  # only the last is kept: memory does not grow with the steps
            if isinstance(self.learner, IterativeLearner):
                end = loop.Point(self._steps(steps), adapted, {})
                self._notices.health(loop.health(self.learner, self._values(), end, support))
            else:
                self._notices.health(adapted)  # beside its weights a head says how its solve went
            return self.learner.materialise(adapted, support)

    def query_outputs(self, tasks: Task, steps: int | None = None) -> Tensor:
        """Query outputs before adaptation and after each of S inner steps: (S+1, T, n, ...).

        In eval mode: without dropout. No graph is kept. A learner without steps returns
        (1, T, n, ...).
        """
        tasks = self._check(tasks)
        parts = []
        with running(self.learner, training=False), torch.no_grad():
            meta = self._values()
            for part in split(tasks, self._chunk(tasks.support.x)):
                outputs = [
                    self.learner.predict(meta, phi, part.query.x, part.support)
                    for phi in self._phis(part.support, steps)
                ]
                # A tolerance may end the loop early: later steps would have changed nothing.
                wanted = self._steps(steps) + 1
                outputs += [outputs[-1]] * (wanted - len(outputs))
                parts.append(torch.stack(outputs))
        return torch.cat(parts, 1)

    def trajectory(self, support: Batch, steps: int | None = None) -> list[Params]:
        """phi_0 … phi_S of stacked tasks, leaves (T, ...), without a graph."""
        tasks = self._check(Task(support, support))
        with running(self.learner, training=False), torch.no_grad():
            parts = [
                list(self._phis(part.support, steps))
                for part in split(tasks, self._chunk(support.x))
            ]
        longest = max(map(len, parts))
        padded = [part + part[-1:] * (longest - len(part)) for part in parts]
        return [
            {k: torch.cat([phi[k] for phi in phis]) for k in phis[0]}
            for phis in zip(*padded, strict=True)
        ]

    def describe(self) -> dict[str, str]:
        """What was done, in words, for every table of results."""
        return {
            "method": self.name,
            **self.learner.describe(),
            "estimator": self.estimator.describe(),
        }

    def _run(self, meta: Params, tasks: Task) -> MetaGradient:
        chunk = self._chunk(tasks.support.x)
        if self._recorder is None:
            with running(self.learner):
                return mean_gradient(self.estimator, self.learner, meta, tasks, chunk)
        parts, threads = split(tasks, chunk), self._threads(tasks)
        with TURN:
            self.learner.call.follow_modes()
            with single_threaded(len(parts) > 1 < threads):
                replay = self._recorder.prepared(self.learner, meta, parts)
            return mean_gradient(replay, self.learner, meta, tasks, chunk, threads=threads)

    def _threads(self, tasks: Task) -> int:
        """Threads that share tasks; large tasks run one after another, at the memory of one."""
        values = sum(math.prod(batch.x.shape[1:]) for batch in tasks)
        small = values < SHARED_OUT and tasks.support.x.device.type == "cpu"
        return torch.get_num_threads() if small else 1

    def _phis(self, support: Batch, steps: int | None) -> Iterator[Params]:
        self._steps(steps)
        meta = self._values()
        if isinstance(self.learner, IterativeLearner):
            for point in loop.points(self.learner, meta, support, steps):
                yield point.phi
        else:
            yield self.learner.adapt(meta, support)

    def _steps(self, steps: int | None) -> int:
        if not isinstance(self.learner, IterativeLearner):
            return 0
        if steps is None:
            return self.learner.steps
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise ValueError(f"expected a number of inner steps >= 0, got steps={steps!r}")
        return steps

    def _values(self) -> Params:
        lay_out = self.learner.call.laid_out
        return {name: lay_out(home[key].detach()) for home, key, name in self._slots}

    def _check(self, tasks: Task) -> Task:
        checks.tasks(tasks, self.learner.kind)
        home, key = self._first
        with TURN:
            self.learner.call.follow_modes()  # refuses parameters that are no longer there
            dtype = home[key].dtype
        for batch in tasks:
            checks.dtype(batch.x, dtype)
        # Tensors made in inference mode cannot be differentiated through; copies can.
        with torch.inference_mode(False):
            return Task(*(Batch(*(t.clone() if t.is_inference() else t for t in b)) for b in tasks))

    def _chunk(self, x: Tensor) -> int:
        call = self.learner.call
        if not call.batchable:
            if self.chunk not in (1, "auto"):
                self._notices.once(f"tasks run one after another (chunk=1): {call.unbatchable}")
            return 1
        if self.chunk != "auto":
            return int(self.chunk)
        # A rule, not a stopwatch: resuming bit for bit must not depend on what the machine did.
        rows = x[0].numel() if call.convolutional or not x.is_floating_point() else x.shape[1]
        large = call.convolutional or call.size * rows > FUSED
        return 1 if large and x.device.type == "cpu" else len(x)

    def _name_untouched(self, meta: Params, grads: Params) -> None:
        """A meta-parameter without gradient is more often a mistake than a wish: say so, once."""
        missing = [k for k, v in meta.items() if v.requires_grad and k not in grads]
        if missing:
            self._notices.once("the meta-gradient does not reach " + ", ".join(missing))


def _like(p: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in its parameter's own memory layout, as optimisers expect it."""
    if gradient.stride() == p.stride():
        return gradient
    return torch.empty_like(p).copy_(gradient)

"""A method: a learner, an objective and an estimator. Everything a user holds in the hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .call.slots import slots
from .core import checks, trees
from .core.carry import Carry
from .core.contract import (
    Estimator,
    Learner,
    Memory,
    Objective,
    OuterWeights,
    Point,
)
from .core.notices import Notices
from .core.path import summary, trajectory
from .core.types import (
    Batch,
    MetaGradient,
    Params,
    Task,
    Tree,
    concat,
    count,
    leaf,
    leaves,
    mapped,
    stack,
)
from .engine import TURN, Engine, Precision, Recorder, execution, refuse_recording
from .engine.pieces import Pieces
from .engine.schedule import Tasks, chunk_size, grouped, thread_count
from .estimate import Adjoint
from .estimate.batching import mean_gradient, single_threaded, split


class Method(nn.Module):
    """What is adapted and how, what it is judged by, and how that is differentiated.

    `named_parameters()` are the meta-parameters: under `learner.` the model's weights (names ending
    in `model.<name>`) and what solver, scope and inner terms learn, under `objective.` what the
    objective learns.

    `chunk` is the number of tasks run at once: 1 loops over tasks, T runs them as one fused batch;
    results agree to rounding. "auto" is 1 for recurrent layers (`vmap` cannot batch them), and on a
    CPU for convolutions (grouped ones are slower than a loop there) and where one task alone keeps
    a core busy (weights times support rows above `FUSED`), else all tasks.

    Wherever losses and gradients are taken, tasks may be a list of different shapes: those of one
    shape run together, exactly.

    Raises ValueError when the pieces do not fit together, naming both and the fix.
    """

    def __init__(
        self,
        learner: Learner,
        objective: Objective,
        estimator: Estimator | None = None,
        *,
        name: str = "method",
        chunk: int | Literal["auto"] = "auto",
    ):
        super().__init__()
        for role, piece, kind in (
            ("a learner", learner, Learner),
            ("an objective, such as Query(loss)", objective, Objective),
            ("an estimator, such as Adjoint()", estimator or Adjoint(), Estimator),
        ):
            if not isinstance(piece, kind):
                raise ValueError(f"expected {role}, got {type(piece).__name__}: {piece!r:.80}")
        if chunk != "auto":
            checks.whole("chunk", chunk)
        self.name = name
        self.learner = learner
        self.objective = objective
        self.estimator = estimator or Adjoint()
        self.chunk = chunk
        self.estimator.on(learner, objective)  # refuses whatever it may turn into, too
        self._pieces = Pieces(learner, objective)
        self._pieces.function(self.estimator.at(0.0))
        # Walking the module tree at every step would cost more than a small step itself.
        places = {k: k for k, _ in learner.named_parameters()}
        self._slots = slots(learner, places)
        for home, key, k in slots(objective, {k: k for k, _ in objective.named_parameters()}):
            self._slots.append((home, key, f"objective.{k}"))
        names = {id(p): k for k, p in learner.named_parameters()}
        # Parameters of the objective that the learner has as well: their gradients are one.
        self._twins = {
            f"objective.{k}": names[id(p)]
            for k, p in objective.named_parameters()
            if id(p) in names
        }
        models = {id(m) for call in self._calls() for m in call.model.modules()}
        self._own = [m for m in (*learner.modules(), *objective.modules()) if id(m) not in models]
        self._recorder: Recorder | None = None
        self._notices = Notices()

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        inner: Callable[[nn.Module, Batch], Tensor],
        outer: Callable[[nn.Module, Batch], Tensor],
        solver: Any,
        scope: Any = None,
        estimator: Estimator | None = None,
        metric: Any = None,
        norm: str | None = None,
        chunk: int | Literal["auto"] = "auto",
        name: str = "method",
    ) -> Method:
        """A method from two functions of (model, batch), each the loss of one task as a scalar.

        Any differentiable code may stand in them: two forward passes, hidden features, derivatives
        in the inputs. `solver` is e.g. `GradientDescent(0.1, 5)`.

        >>> import torch
        >>> from innerloop import Method
        >>> from innerloop.solve import GradientDescent
        >>> def loss(model, batch):
        ...     return (model(batch.x) - batch.y).square().mean()
        >>> net = torch.nn.Linear(1, 1)
        >>> Method.of(net, inner=loss, outer=loss, solver=GradientDescent(0.1, 1)).name
        'method'
        """
        from .learn import GradientLearner
        from .objective import Computed, ComputedQuery

        learner = GradientLearner(model, solver, scope, inner=Computed(inner), norm=norm)
        objective = ComputedQuery(outer, metric=metric)
        return cls(learner, objective, estimator, name=name, chunk=chunk)

    def replace(
        self,
        *,
        learner: Learner | None = None,
        objective: Objective | None = None,
        estimator: Estimator | None = None,
        name: str | None = None,
        chunk: int | Literal["auto"] | None = None,
    ) -> Method:
        """The same method with some choices changed; models and all other pieces are shared.

        `learner.replace(solver=…, scope=…)` changes one of a gradient learner's own.
        """
        return Method(
            learner or self.learner,
            objective or self.objective,
            estimator or self.estimator,
            name=name or self.name,
            chunk=chunk or self.chunk,
        )

    def meta_gradient(
        self,
        tasks: Tasks,
        *,
        progress: float = 0.0,
        weight: Tensor | None = None,
        labelled: Batch | None = None,
    ) -> MetaGradient:
        """The mean outer loss over the tasks, and its gradient by this method's estimator.

        `grads` has every trainable meta-parameter by its name, zeros for what the loss does not
        depend on. `stats` has one value per task: loss, query_loss, the objective's metric, and the
        health of inner solves. `progress` is the fraction of the training that is over, for pieces
        that change over it. `weight` (T,) multiplies the tasks' losses, not their stats. `labelled`
        are examples x (N, ...), y (N,) for an objective with a loss beside the tasks.

        Random layers and estimators draw once from torch's global generator per call. Nothing is
        stored: a solver whose state outlives the tasks takes it by `commit`.

        Raises ValueError where the loss reaches no meta-parameter at all.
        """
        checks.fraction("progress", progress)
        groups, order = self._groups(tasks)
        if any(v.requires_grad for group in groups for v in leaves(group)):
            raise ValueError(
                "the tasks hold tensors that require a gradient, and this one is in the method's "
                "parameters alone, so they would get none: put what made them into the model, "
                "make them parameters of an inner term (`Computed(function, hyper)`), or use "
                "`.detach()`"
            )
        layout = self._layout()
        with TURN:  # while another thread calls the model, its places hold other weights
            params = {name: home[key] for home, key, name in self._slots}
        with torch.inference_mode(False):
            meta = {
                k: layout(p.detach()).requires_grad_(p.requires_grad) for k, p in params.items()
            }
        weights = self._weights(meta, leaf(groups[0].support.x), progress, weight, order)
        found = self._run(meta, groups, weights, progress)
        if order is not None:
            found = MetaGradient(
                found.loss, found.grads, {k: v[order] for k, v in found.stats.items()}, found.memory
            )
        if labelled is not None:
            found = self._with_labelled(found, meta, labelled, progress)
        total = dict(found.grads)
        for twin, k in self._twins.items():
            total = trees.merge(total, {k: total.pop(twin)} if twin in total else {})
        alone = {k: p for k, p in params.items() if p.requires_grad and k not in self._twins}
        self._check_reached(list(alone), total)
        grads = {
            self._named(k): _like(p, total[k]) if k in total else torch.zeros_like(p)
            for k, p in alone.items()
        }
        if self._recorder is None:  # a record has no graph to detach from
            grads = trees.detach(grads)
        self._notices.health(found.stats)
        return MetaGradient(found.loss.detach(), grads, found.stats, found.memory)

    def commit(self, found: MetaGradient) -> None:
        """Keep what outlives the tasks: the solver's mean state, where it has one."""
        if found.memory:
            keeper = self.learner.offer(Memory)  # type: ignore[type-abstract]
            assert isinstance(keeper, Memory)
            keeper.keep(found.memory)

    def value(self, tasks: Tasks, *, progress: float = 0.0) -> MetaGradient:
        """Loss and stats as `meta_gradient` gives them, without any gradient: `grads` is empty.

        The loss is that at phi_K, whatever steps the objective weighs beside it.
        """
        groups, order = self._groups(tasks)
        found = []
        with self._context(progress=progress), torch.no_grad():
            meta = self._values()
            for part in self._parts(groups):
                point = self.learner.adapt(meta, part.support)
                outcome = self.objective.losses(self.learner, meta, point, part)
                stats = summary(self.objective, outcome, part)
                found.append(stats | self.learner.health(meta, point, part.support))
        stats = {k: torch.cat([s[k] for s in found]) for k in found[0]}
        stats = stats if order is None else {k: v[order] for k, v in stats.items()}
        return MetaGradient(stats["loss"].mean(), {}, stats)

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
        checks.one_of("engine", engine, Engine)
        checks.one_of("precision", precision, Precision)
        recorder = None
        if engine != "eager":
            reason = refuse_recording(self.learner, self.estimator)
            if reason:
                raise ValueError(reason)
            compiled = engine == "compiled"
            recorder = Recorder(self.learner, self.objective, compiled=compiled)
        self._recorder = recorder
        for call in self._calls():
            call.precision = torch.bfloat16 if precision == "bfloat16" else None
        return self

    def loss(
        self,
        tasks: Tasks,
        *,
        progress: float = 0.0,
        weight: Tensor | None = None,
        labelled: Batch | None = None,
    ) -> Tensor:
        """The mean outer loss; its `.backward()` adds the meta-gradient to every `.grad`.

        The gradient is already computed when this returns, so memory stays flat and wrappers see
        an ordinary first-order graph. It is a step of a training: what outlives tasks is kept.
        """
        found = self.meta_gradient(tasks, progress=progress, weight=weight, labelled=labelled)
        self.commit(found)
        trained = {k: p for k, p in self.named_parameters() if p.requires_grad}
        carried: Tensor = Carry.apply(
            found.loss, [found.grads[k] for k in trained], *trained.values()
        )
        return carried

    def forward(self, tasks: Tasks, labelled: Batch | None = None) -> Tensor:
        """The same as `loss`, for wrappers that call the module."""
        return self.loss(tasks, labelled=labelled)

    def adapt(self, support_x: Tree, support_y: Tree, steps: int | None = None) -> nn.Module:
        """A plain module adapted to ONE task: support_x (n, ...), support_y (n, ...).

        It is in eval mode, has no graph, and follows the normalisation policy by itself; dropout is
        off while adapting too. `steps` replaces the trained number of inner steps.

        Raises ValueError where adapting led to weights that are not finite.
        """
        if not leaves(support_x) or not leaves(support_y):
            raise ValueError(
                f"expected tensors, got support_x {type(support_x).__name__} and support_y "
                f"{type(support_y).__name__}; convert with torch.as_tensor"
            )
        support = Batch(*mapped(lambda v: v.unsqueeze(0), (support_x, support_y)))
        support = self._checked(Task(support, support)).support
        with self._context(training=False), torch.no_grad():
            meta = self._values()
            for point in self._points(meta, support, steps):
                end = point  # only the last is kept: memory does not grow with the steps
            bad = [k for k, v in end.phi.items() if not bool(torch.isfinite(v).all())]
            if bad:
                raise ValueError(
                    f"adapting led to weights that are not finite (in {bad[0]}) after {end.t} "
                    "steps: lower the inner rate, or look for values in the support set that are "
                    "far from those of training"
                )
            self._notices.health(self.learner.health(meta, end, support))
            return self.learner.module(end, support)

    def query_outputs(self, tasks: Task, steps: int | None = None) -> Tree:
        """Query outputs before adaptation and after each of S inner steps: (S+1, T, n, ...).

        In eval mode: without dropout. No graph is kept. A learner without steps returns
        (1, T, n, ...).
        """
        tasks = self._checked(tasks)
        parts = []
        with self._context(training=False), torch.no_grad():
            meta = self._values()
            for part in split(tasks, self._chunk(tasks)):
                outputs = [
                    self.learner.predict(meta, point, part.query.x, part.support)
                    for point in self._points(meta, part.support, steps)
                ]
                # A tolerance may end the loop early: later steps would have changed nothing.
                outputs += [outputs[-1]] * (self._wanted(steps) + 1 - len(outputs))
                parts.append(stack(outputs))
        return concat(parts, 1)

    def trajectory(self, support: Batch, steps: int | None = None) -> list[Params]:
        """phi_0 … phi_S of stacked tasks, leaves (T, ...), without a graph."""
        tasks = self._checked(Task(support, support))
        with self._context(training=False), torch.no_grad():
            meta = self._values()
            parts = [
                [point.phi for point in self._points(meta, part.support, steps)]
                for part in split(tasks, self._chunk(tasks))
            ]
        longest = max(map(len, parts))
        padded = [part + part[-1:] * (longest - len(part)) for part in parts]
        return [
            {k: torch.cat([phi[k] for phi in phis]) for k in phis[0]}
            for phis in zip(*padded, strict=True)
        ]

    def describe(self) -> dict[str, str]:
        """What was done, in words, for every table of results."""
        told = self.learner.describe()
        inner, outer = told.pop("loss", ""), self.objective.describe()
        loss = outer if not inner or outer.startswith(inner) else f"{inner} inside, {outer} outside"
        return {
            "method": self.name,
            **told,
            "loss": loss,
            "estimator": self.estimator.describe(),
        }

    @property
    def steps(self) -> int:
        """The inner steps that were trained with; 0 for a learner that adapts at once."""
        way = trajectory(self.learner)
        return 0 if way is None else way.steps

    def _calls(self) -> list[Any]:
        return [*self.learner.calls(), *self.objective.calls()]

    def _context(self, *, training: bool = True, progress: float | None = None) -> Any:
        return execution(self._calls(), self._own, training=training, progress=progress)

    def _weights(
        self,
        meta: Params,
        like: Tensor,
        progress: float,
        weight: Tensor | None,
        order: Tensor | None,
    ) -> OuterWeights:
        steps = self.objective.weights(self._pieces.steps, progress)
        steps = None if steps is None else steps.to(like.device)
        if weight is not None:
            total = len(order) if order is not None else count(like)
            if weight.shape != (total,) or not weight.is_floating_point():
                raise ValueError(
                    f"expected weight as floating-point numbers of shape ({total},), one number "
                    f"per task, got {weight.dtype} {tuple(weight.shape)}"
                )
            dtypes = (v.dtype for v in meta.values() if v.is_floating_point())
            weight = weight.to(like.device, next(dtypes, like.dtype))
            weight = weight if order is None else weight[order.argsort()]
        return OuterWeights(steps, weight)

    def _run(
        self, meta: Params, groups: list[Task], weights: OuterWeights, progress: float
    ) -> MetaGradient:
        parts = self._parts(groups)
        function = self._pieces.function(self.estimator.at(progress))
        if self._recorder is None:
            with self._context(progress=progress):
                return mean_gradient(function, meta, parts, weights)
        threads = thread_count(groups[0])
        with TURN:
            for call in self._calls():
                call.follow_modes()
                call.follow_progress(progress)
            with single_threaded(len(parts) > 1 < threads):
                replay = self._recorder.prepared(function, meta, parts, weights, self._own)
            return mean_gradient(replay, meta, parts, weights, threads=threads)

    def _with_labelled(
        self, found: MetaGradient, meta: Params, labelled: Batch, progress: float
    ) -> MetaGradient:
        """Add the objective's loss beside the tasks, and its gradient."""
        with self._context(progress=progress), torch.enable_grad():
            loss, stats = self.objective.beside(self.learner, meta, labelled)
            grads = trees.gradient(loss.unsqueeze(0), meta)
        tasks = len(next(iter(found.stats.values())))
        told = {k: v.expand(tasks) for k, v in stats.items()}
        return MetaGradient(
            found.loss + loss.detach(),
            trees.merge(found.grads, grads),
            {**found.stats, **told},
            found.memory,
        )

    def _points(self, meta: Params, support: Batch, steps: int | None) -> Iterator[Point]:
        self._wanted(steps)
        way = trajectory(self.learner)
        if way is None:
            yield self.learner.adapt(meta, support)
        else:
            yield from way.points(meta, support, steps)

    def _wanted(self, steps: int | None) -> int:
        if steps is None:
            return self.steps
        wanted = checks.whole("steps", steps, least=0)
        return 0 if trajectory(self.learner) is None else wanted

    def _values(self) -> Params:
        layout = self._layout()
        return {name: layout(home[key].detach()) for home, key, name in self._slots}

    def _layout(self) -> Callable[[Tensor], Tensor]:
        calls = self.learner.calls()
        return calls[0].laid_out if calls else lambda v: v

    def _named(self, k: str) -> str:
        """A name among the meta-parameters as `named_parameters` has it."""
        return k if k.startswith("objective.") else f"learner.{k}"

    def _dtypes(self) -> set[torch.dtype]:
        """The precisions of the weights, after the check that they are still the method's."""
        self._pieces.refuse_exchanged(self.learner, self.objective)
        with TURN:  # while another thread calls the model, its places hold other weights
            try:
                held = [home[key] for home, key, _ in self._slots]
                return {tensor.dtype for tensor in held if tensor.is_floating_point()}
            except (KeyError, AttributeError):
                for call in self._calls():
                    call.follow_modes()  # refuses parameters that are no longer there, by name
                raise

    def _groups(self, tasks: Tasks) -> tuple[list[Task], Tensor | None]:
        dtypes = self._dtypes()  # once, however many tasks a list holds
        return grouped(tasks, lambda task: self._check(task, dtypes))

    def _checked(self, tasks: Task) -> Task:
        """One stack of tasks, checked."""
        return self._check(tasks, self._dtypes())

    def _parts(self, groups: list[Task]) -> list[Task]:
        return [part for group in groups for part in split(group, self._chunk(group))]

    def _check(self, tasks: Task, dtypes: set[torch.dtype]) -> Task:
        checks.tasks(tasks)
        flat = leaves(tasks)
        if not torch.is_autocast_enabled(flat[0].device.type):
            for batch in tasks:
                checks.dtypes(leaves(batch.x), dtypes)
        alone = checks.one_class(tasks.support.y)
        if alone:
            self._notices.once(alone)
        # Tensors made in inference mode cannot be differentiated through; copies can.
        with torch.inference_mode(False):
            if any(v.is_inference() for v in flat):
                return mapped(lambda v: v.clone() if v.is_inference() else v, tasks)
        return tasks

    def _chunk(self, tasks: Task) -> int:
        return chunk_size(self._calls(), tasks, self.chunk, self._notices.once)

    def _check_reached(self, wanted: list[str], grads: Params) -> None:
        """A meta-parameter without gradient is more often a mistake than a wish: say so, once.

        All of them without one is an error: no training could come of it.
        """
        missing = [k for k in wanted if k not in grads]
        if wanted and len(missing) == len(wanted):
            raise ValueError(
                f"the outer loss reaches none of the meta-parameters ({', '.join(missing)}): is "
                "the model's output detached, or computed from tensors that are not its own "
                "parameters?"
            )
        if missing:
            self._notices.once("the meta-gradient does not reach " + ", ".join(missing))


def _like(p: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in its parameter's own memory layout, as optimisers expect it."""
    if gradient.stride() == p.stride():
        return gradient
    return torch.empty_like(p).copy_(gradient)

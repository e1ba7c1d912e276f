"""The learner that adapts a model's weights step by step: solver x scope x inner terms."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from ..call import ModelCall
from ..core import path as loop
from ..core import trees
from ..core.contract import (
    Cotangents,
    Learner,
    Memory,
    Models,
    Network,
    Optimum,
    Path,
    Point,
    Program,
    Refusal,
    Trajectory,
    View,
)
from ..core.types import Batch, Params, Tree, one_of
from ..objective.losses import Loss, LossLike
from ..objective.terms import ModelFunction, Situation, Term, as_terms, names_of
from ..scope import All, Scope
from ..solve import Solver
from .examples import StepExamples
from .function import FunctionCall
from .kept import Kept
from .resize import resize

V = TypeVar("V")

Inner = LossLike | Loss | Term | Sequence[Any]


class GradientLearner(Learner):
    """phi_0 from the scope, then phi_{t+1} = solver step along the gradient of the inner terms.

    `inner` is a loss of the support examples, a term, or a list of them that are added up, such as
    `["cross_entropy", Proximal(2.0)]`. `examples` chooses the support examples of each step (all of
    them by default; `MiniBatches(10)`). `norm` is the normalisation policy (see
    `innerloop.call.policy`).

    Raises ValueError where the scope adapts nothing, and where a gradient tolerance meets
    examples that change from step to step.
    """

    def __init__(
        self,
        model: nn.Module,
        solver: Solver,
        scope: Scope | None = None,
        *,
        inner: Inner = "cross_entropy",
        norm: str | None = None,
        examples: StepExamples | None = None,
    ):
        super().__init__()
        self.call = ModelCall(model, norm)
        self.model = model
        self.solver = solver
        self.scope: Scope = scope or All()
        self.inner = as_terms(inner)
        self.examples = examples
        if examples is not None and solver.tolerance is not None:
            raise ValueError(
                "a gradient tolerance needs one inner objective, but mini-batches change it at "
                "every step: use tolerance=None or examples=None"
            )
        if solver.tolerance is not None and not self._alike():
            raise ValueError(
                "a gradient tolerance needs one inner objective, but the scope "
                f"`{self.scope.describe()}` uses another model at every step, or does not say by "
                "`key(t)` that it does not: use tolerance=None"
            )
        params: Params = dict(model.named_parameters())
        self.names = self.scope.bind(model, solver.steps)
        if not self.names:
            raise ValueError(
                f"the scope `{self.scope.describe()}` leaves no trainable parameter to adapt; the "
                f"model has {', '.join(params)}"
            )
        first = params[self.names[0]]
        if first.is_complex():  # rates and strengths are real numbers
            first = first.detach().real
        self.solver.bind({k: params[k].shape for k in self.names}, first.dtype)
        for term in self.terms():
            term.bind(first)
        self._hyper = names_of(self.terms(), self)
        self._functions: dict[tuple[int, int], FunctionCall] = {}
        self._step_was_read = False
        self._way = _Descent(self)
        self.to(first.device)

    def replace(
        self,
        *,
        solver: Solver | None = None,
        scope: Scope | None = None,
        inner: Inner | None = None,
        norm: str | None = None,
        examples: StepExamples | None = None,
    ) -> GradientLearner:
        """A learner of the same model with these pieces changed; the others are shared."""
        return GradientLearner(
            self.model,
            solver or self.solver,
            scope or self.scope,
            inner=list(self.inner) if inner is None else inner,
            norm=norm or (self.call.policy if self.call.normalises else None),
            examples=examples or self.examples,
        )

    def adapt(self, meta: Params, support: Batch) -> Point:
        if torch.is_grad_enabled():
            return loop.unroll(self._way, meta, support)
        return loop.last(self._way, meta, support)

    def predict(self, meta: Params, point: Point, x: Tree, support: Batch) -> Tree:
        weights, stacked = self._weights(meta, point, "query")
        return self.call(weights, stacked, x, "query", support.x)

    def module(self, point: Point, support: Batch) -> nn.Module:
        meta: Params = {k: p.detach() for k, p in self.named_parameters()}
        weights, stacked = self._weights(meta, point, "query")
        one = {k: v.squeeze(0) if k in stacked else v for k, v in weights.items()}
        shapes = {k: p.shape for k, p in self.model.named_parameters()}
        fitting = {k: v for k, v in one.items() if v.shape == shapes[k]}
        model = self.call.materialise(fitting, one_of(support.x))
        for k, v in one.items():
            if k not in fitting:  # a head with another number of classes
                resize(model, k, v)
        return model

    def health(self, meta: Params, point: Point, support: Batch) -> Params:
        return loop.health(self._way, meta, point, support)

    def calls(self) -> list[Network]:
        return [self.call, *self._functions.values()]

    def terms(self) -> list[Term]:
        """The inner objective's addends."""
        return cast(list[Term], list(self.inner))

    def __getstate__(self) -> dict[str, Any]:
        """Functions are known by identity, which a copy in another process does not keep."""
        return self.__dict__ | {"_functions": {}}

    def offer(self, view: type[V]) -> V | Refusal:
        reason = self._refuse(view)
        if reason is not None:
            return reason
        seen: dict[type, Callable[[], Any]] = {
            Path: lambda: self._way,
            Trajectory: lambda: loop.Walk(self._way),
            Optimum: lambda: _Minimum(self._way),
            Memory: lambda: Kept(self.solver, self.scope),
            Program: lambda: _Steps(self),
            Models: lambda: _Adapted(self),
        }
        if view not in seen:
            return super().offer(view)
        found: V = seen[view]()
        return found

    def describe(self) -> dict[str, str]:
        fit, *others = [term.describe() for term in self.terms()]
        solver = ", ".join([self.solver.describe(), *others])
        if self.examples is not None:
            solver += f", {self.examples.describe()}"
        return {
            "scope": self.scope.describe(),
            "solver": solver,
            "norm": self.call.policy if self.call.normalises else "none in the model",
            "loss": fit,
        }

    def _refuse(self, view: type) -> Refusal | None:
        """What stands against this view: reasons of scope, solver, and this learner."""
        if view is Memory:  # one of the two is enough
            return self.scope.refuse(view) and self.solver.refuse(view)
        reason = self.scope.refuse(view)
        if reason is None and view not in (Trajectory, Models):
            reason = self.solver.refuse(view)
        if reason is not None:
            return reason
        if view is Optimum:
            return self._refuse_optimum()
        if view is Program and self.solver.tolerance is not None:
            return Refusal(
                "with a tolerance the number of steps depends on the task", 'Use engine="eager"'
            )
        if view is Program and self.examples is not None:
            return Refusal("each call draws other mini-batches", 'Use engine="eager"')
        return None

    def _refuse_optimum(self) -> Refusal | None:
        name = type(self.solver).__name__
        if not self._alike():
            return Refusal(
                f"the scope `{self.scope.describe()}` gives each step another objective, so phi "
                "is stationary for none of them",
                "Use a scope without it, or use `Adjoint()`",
            )
        if self.examples is not None:
            return Refusal(
                "a mini-batched support: each step has another objective, so phi is stationary "
                "for none of them",
                "Use `examples=None`, or use `Adjoint()`",
            )
        if self.solver.tolerance is None and not self._held():
            return Refusal(
                f"`{name}` without a penalty or a tolerance: phi is not a stationary point of "
                "anything",
                "Add `Proximal(lam)` to the inner terms or give the solver a tolerance, or use "
                "`Adjoint()`",
            )
        return None

    def _alike(self) -> bool:
        """Whether the scope uses one model at all steps."""
        return len({self.scope.key(t) for t in range(max(self.solver.steps, 2))}) == 1

    def _held(self) -> bool:
        """Whether a term keeps phi near a point, so that the inner problem has a minimum."""
        return any(term.refuse(Optimum) is None for term in self.terms())

    def _weights(self, meta: Params, point: Point, role: str) -> tuple[Params, set[str]]:
        params, own = trees.under("model.", meta), trees.under("scope.", meta)
        return self.scope.weights(params, own, self.names, point, role)

    def _start(self, meta: Params, support: Batch) -> Params:
        params, own = trees.under("model.", meta), trees.under("scope.", meta)
        return self.scope.start(params, own, self.names, support, self._run)

    def _run(self, weights: Params, stacked: set[str], x: Tree) -> Tree:
        return self.call(weights, stacked, x, "start", None)

    def _function(self, function: ModelFunction, hyper: nn.Module | None = None) -> FunctionCall:
        """The model under this function and these outer parameters; made, and examined, once."""
        found = self._functions.get((id(function), id(hyper)))
        if found is None:
            found = FunctionCall(self.model, function, self.call.policy, hyper)
            found.follow(self.call)
            # It holds both, so that no other object can take over their identity.
            self._functions[id(function), id(hyper)] = found
        return found

    def _stream(self, t: int) -> str:
        """Fresh dropout masks at every step, but one mask where phi seeks a stationary point."""
        one_objective = self.solver.tolerance is not None or self._held()
        return "support" if one_objective else f"support {t}"


class _Data(NamedTuple):
    """The examples of a step, and the whole support set, where a start may look at it."""

    batch: Batch
    support: Batch


class _Descent(Path):
    """A gradient learner as the steps that it takes."""

    def __init__(self, learner: GradientLearner):
        self.learner, self.solver = learner, learner.solver

    @property
    def steps(self) -> int:  # type: ignore[override]
        return self.solver.steps

    @property
    def tolerance(self) -> float | None:  # type: ignore[override]
        return self.solver.tolerance

    def start(self, meta: Params, support: Batch) -> Point:
        phi = self.learner._start(meta, support)
        return Point(0, phi, self.solver.init(phi))

    def data(self, meta: Params, point: Point, support: Batch) -> Any:
        examples = self.learner.examples
        batch = support if examples is None else examples.at(self.learner, meta, point, support)
        return _Data(batch, support)

    def losses(self, meta: Params, point: Point, data: Any) -> Tensor:
        at = _At(self.learner, meta, point, data)
        first, *others = [
            term.losses({k: meta[name] for k, name in names.items() if name in meta}, at)
            for term, names in zip(self.learner.terms(), self.learner._hyper, strict=True)
        ]
        return sum(others, first)

    def step(self, meta: Params, point: Point, view: View) -> Point:
        return self.solver.step(trees.under("solver.", meta), point, view)

    def pull(self, meta: Params, point: Point, view: View, lam: Params, mu: Params) -> Cotangents:
        found = self.solver.pull(trees.under("solver.", meta), point, view, lam, mu)
        if not found.meta:
            return found
        return found._replace(meta={f"solver.{k}": v for k, v in found.meta.items()})

    def pull_constant(self, lam: Params, mu: Params) -> tuple[Params, Params] | None:
        return self.solver.pull_constant(lam, mu)

    def key(self, t: int) -> Hashable:
        if self.learner._step_was_read:
            return t
        return self.solver.key(t), self.learner.scope.key(t)


class _Minimum(Optimum):
    """A gradient learner as the minimum of its inner terms."""

    def __init__(self, way: _Descent):
        self.way = way

    def losses(self, meta: Params, phi: Params, support: Batch) -> Tensor:
        point = Point(self.way.steps, phi, {})  # the objective is the same at every step
        return self.way.losses(meta, point, _Data(support, support))

    def solve(self, meta: Params, support: Batch) -> Point:
        return loop.last(self.way, meta, support)

    def health(self, norm: Tensor) -> Params:
        return loop.met(self.way.tolerance, norm)


class _At(Situation):
    """What the terms see at one step."""

    def __init__(self, learner: GradientLearner, meta: Params, point: Point, data: _Data):
        self.phi, self.batch = point.phi, data.batch
        self._learner, self._meta, self._point, self._support = learner, meta, point, data.support
        self._outputs: Tree = None
        self.stream = learner._stream(point.t)

    @property
    def t(self) -> int:  # type: ignore[override]
        # A term that asks for the step may do something else at each: no step stands for all.
        self._learner._step_was_read = True
        return self._point.t

    @property
    def outputs(self) -> Tree:
        if self._outputs is None:
            weights, stacked = self.weights()
            self._outputs = self._learner.call(weights, stacked, self.batch.x, self.stream, None)
        return self._outputs

    @property
    def start(self) -> Params:
        return self._learner._start(self._meta, self._support)

    def weights(self) -> tuple[Params, set[str]]:
        return self._learner._weights(self._meta, self._point, "support")

    def apply(
        self, function: ModelFunction, hyper: nn.Module | None = None, values: Params | None = None
    ) -> Tensor:
        weights, stacked = self.weights()
        call = self._learner._function(function, hyper)
        return call.values(weights, stacked, self.batch, self.stream, values)


class _Adapted(Models):
    """The adapted models of all tasks."""

    def __init__(self, learner: GradientLearner):
        self.learner = learner

    def apply(
        self,
        meta: Params,
        point: Point,
        function: Callable[[nn.Module, Batch], Tensor],
        batch: Batch,
        role: str,
    ) -> Tensor:
        weights, stacked = self.learner._weights(meta, point, role)
        return self.learner._function(function).values(weights, stacked, batch, role)


class _Steps(Program):
    """Steps that are the same operations for all tasks of a shape."""

    def __init__(self, learner: GradientLearner):
        self.learner = learner

    def key(self) -> Hashable:
        return self.learner.solver.steps

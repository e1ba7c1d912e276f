"""The contract: what the four choices of a method must offer each other, and nothing else.

A *learner* turns meta-parameters and a support set into task parameters phi and predicts with
them. An *objective* says what phi is judged by. An *estimator* binds the two to a function that
turns tasks into a meta-gradient. None of them knows which other one it meets: what a learner can
do beyond `adapt` and `predict` it offers as an object of a view type below, or it gives a Refusal,
which is a value until somebody needs what was refused.

A learner written outside of the library needs this page only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from . import trees
from .types import Batch, MetaGradient, Params, Task, Tree

V = TypeVar("V")


class Point(NamedTuple):
    """Where adaptation stands before step `t`: phi_t, the solver's state s_t; leaves (T, ...)."""

    t: int
    phi: Params
    state: Params


class Cotangents(NamedTuple):
    """What a step's vjp gives, entries that vanish left out.

    phi and state have leaves (T, ...), so has grad, the cotangent u of the inner gradient; losses
    is (T,) or None; meta is what the step itself adds to the meta-gradient.
    """

    phi: Params
    grad: Params
    losses: Tensor | None
    state: Params
    meta: Params


class View(ABC):
    """The inner objective at one point, as a solver or an oracle of curvature sees it.

    `losses` (T,) and `grad`, leaves (T, ...): its value and its gradient in phi.
    """

    losses: Tensor
    grad: Params

    def product(self, u: Params, losses: Tensor | None = None) -> tuple[Params, Params]:
        """(H_phi,phi u + l g, H_meta,phi u + l dL/dmeta), entries that vanish left out.

        `u` has leaves (T, ...); the cotangent `losses` l of the losses is (T,) or None.
        """
        raise ValueError(f"`{type(self).__name__}` gives no curvature products here")

    def at(self, phi: Params) -> Tensor:
        """The inner objective of each task at another phi: (T,), for a line search."""
        raise ValueError(f"`{type(self).__name__}` knows the inner objective at one point only")

    def linearised(self) -> View:
        """The same view with one graph for its gradient and all products to come."""
        return self


class Given(View):
    """Losses and a gradient as values: what a step sees while it is itself differentiated."""

    def __init__(self, losses: Tensor, grad: Params):
        self.losses, self.grad = losses, grad


class Refusal(NamedTuple):
    """Why something is not offered, and what to do: both are sentences for the user."""

    reason: str
    fix: str


class Refused(ValueError):
    """Pieces that cannot be put together, with both names, the reason, and what to do."""


class Network(Protocol):
    """What a method and an engine ask of a model that a learner calls (`innerloop.call`)."""

    unbatchable: str | None
    convolutional: bool
    size: int
    precision: torch.dtype | None

    @property
    def model(self) -> nn.Module: ...
    @property
    def batchable(self) -> bool: ...
    @property
    def random(self) -> bool: ...
    @property
    def modes(self) -> Hashable: ...
    def laid_out(self, x: Tensor) -> Tensor: ...
    def follow_modes(self, training: bool = True) -> None: ...
    def follow_progress(self, fraction: float) -> None: ...


class Learner(nn.Module, ABC):
    """adapt on support -> predict on query. `meta` is `dict(self.named_parameters())`.

    Every function is pure in (meta, phi): tensors come in as arguments and go out as values. When
    an objective has parameters of its own, they stand in `meta` under `objective.`.
    """

    @abstractmethod
    def adapt(self, meta: Params, support: Batch) -> Point:
        """phi of each task, leaves (T, ...), differentiable in `meta` where gradients are on."""

    @abstractmethod
    def predict(self, meta: Params, point: Point, x: Tree, support: Batch) -> Tree:
        """Outputs (T, n, ...) for `x` (T, n, ...); `support` is the set the point came from."""

    @abstractmethod
    def module(self, point: Point, support: Batch) -> nn.Module:
        """The adapted model of ONE task (leaves (1, ...)) as a plain module in eval mode."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """What this learner is, in words, for every table of results."""

    def health(self, meta: Params, point: Point, support: Batch) -> Params:
        """How well this point solves its problem: stats, one value per task (T,); {} if unknown."""
        return {}

    def calls(self) -> list[Network]:
        """The models that it calls; empty for a learner that needs no care about its models."""
        return []

    def offer(self, view: type[V]) -> V | Refusal:
        """This learner seen as a `Path`, `Trajectory`, `Optimum`, `Program`, `Memory`, …"""
        name = type(self).__name__
        if view is Program:
            return Refusal(
                f"`{name}` does not say that its operations are the same for all tasks of a shape",
                'Use engine="eager"',
            )
        if view is Models:
            return Refusal(f"`{name}` does not hand out its adapted models", "Use `Query(loss)`")
        return Refusal(f"`{name}` adapts at once, not step by step", "Use `Unrolled()`")


class Path(ABC):
    """A learner seen as a recurrence: what `Adjoint`, `FirstOrder`, `Reptile` differentiate.

        phi_{t+1}, s_{t+1} = step(meta, t, phi_t, g_t, l_t, s_t),  g_t = d sum(losses) / d phi.

    With a `tolerance` a task stops once the norm of its gradient is at or below it.
    """

    steps: int
    tolerance: float | None = None

    @abstractmethod
    def start(self, meta: Params, support: Batch) -> Point:
        """phi_0 and the solver's state there."""

    def data(self, meta: Params, point: Point, support: Batch) -> Batch:
        """The examples of this step, by default all. The same call gives the same ones."""
        return support

    @abstractmethod
    def losses(self, meta: Params, point: Point, data: Batch) -> Tensor:
        """The inner objective of each task: (T,). The same call gives the same value."""

    @abstractmethod
    def step(self, meta: Params, point: Point, view: View) -> Point:
        """One update. It never calls autograd: the gradient comes with the view."""

    def pull(self, meta: Params, point: Point, view: View, lam: Params, mu: Params) -> Cotangents:
        """The vjp of the step, applied to the cotangents of phi_{t+1} and s_{t+1}."""
        return pull_by_autograd(self.step, meta, point, view, lam, mu)

    def pull_constant(self, lam: Params, mu: Params) -> tuple[Params, Params] | None:
        """(lam, mu) before a step whose gradient counts as constant, if no point is needed for it.

        None, the default, means that `pull` must look at the point. For phi - a g it is lam itself,
        and so first order neither stores nor replays anything.
        """
        return None

    def key(self, t: int) -> Hashable:
        """Steps with equal keys are the same tensor program; by default no two are."""
        return t


class Trajectory(ABC):
    """A learner seen as the points that adapting passes, without a graph."""

    steps: int

    @abstractmethod
    def points(self, meta: Params, support: Batch, steps: int | None = None) -> Iterator[Point]:
        """phi_0 … phi_S, S = `steps` or the learner's own number; a tolerance may end it early."""


class Optimum(ABC):
    """A learner seen as a minimum, d losses / d phi = 0: what `Implicit` differentiates."""

    @abstractmethod
    def losses(self, meta: Params, phi: Params, support: Batch) -> Tensor:
        """The inner objective of each task at phi: (T,)."""

    @abstractmethod
    def solve(self, meta: Params, support: Batch) -> Point:
        """The minimum, without a graph."""

    @abstractmethod
    def health(self, norm: Tensor) -> Params:
        """What gradient norms (T,) at the solution say about it: stats, each (T,)."""


class Models(ABC):
    """A learner seen as the adapted models of all tasks, for any code that calls a model."""

    @abstractmethod
    def apply(
        self,
        meta: Params,
        point: Point,
        function: Callable[[nn.Module, Batch], Tensor],
        batch: Batch,
        role: str,
    ) -> Tensor:
        """`function(model, batch)` of each task, its weights in the model: scalars, (T,)."""


class Program(ABC):
    """A learner or estimator whose tensor operations are the same for all tasks of a shape."""

    @abstractmethod
    def key(self) -> Hashable:
        """Equal keys: the same operations."""


class Memory(ABC):
    """A learner of which something outlives the task: a solver's state, or the weights."""

    def of(self, end: Point) -> Params:
        """What of the last point outlives the tasks, leaves (T, ...): the solver's state."""
        return end.state

    @abstractmethod
    def keep(self, state: Params) -> None:
        """Start the next tasks from this, the mean over tasks of what the last points left."""


class Outcome(NamedTuple):
    """Outer losses of each task (T,), the outputs (T, n, ...) they were computed from, and stats.

    `stats` always hold the loss of the query set at this point as `query_loss`, each (T,).
    """

    losses: Tensor
    outputs: Tree
    stats: Params


class Metric(NamedTuple):
    """What is reported beside a loss, and what the best weights are chosen by.

    `value(outputs, batch)` gives one number per task (T,); outputs and batch.y are (T, n, ...).
    """

    name: str
    larger_is_better: bool
    value: Callable[[Tree, Batch], Tensor]


class Objective(nn.Module, ABC):
    """What adapted weights are judged by: the outer loss."""

    metric: Metric

    def weights(self, steps: int, progress: float) -> Tensor | None:
        """Weights (K,) of the losses at phi_1 … phi_K; None where phi_K alone counts.

        `progress` is the fraction of the training that is over.
        """
        return None

    @abstractmethod
    def losses(self, learner: Learner, meta: Params, point: Point, task: Task) -> Outcome:
        """The outer losses at this point."""

    def bind(self, learner: Learner) -> None:
        """Look at the learner once, before anything runs; raise ValueError if they do not fit."""

    def beside(self, learner: Learner, meta: Params, labelled: Batch) -> tuple[Tensor, Params]:
        """A loss beside the tasks (scalar), and its stats, for objectives that have one."""
        raise ValueError(
            f"`{type(self).__name__}` has no use for labelled examples beside the tasks; use "
            "`Discriminator(...)`, or leave them out"
        )

    def wants_labelled(self) -> bool:
        """Whether it has a loss beside the tasks, of labelled examples."""
        return False

    def calls(self) -> list[Network]:
        """The models that it calls by itself."""
        return []

    @abstractmethod
    def describe(self) -> str:
        """The objective in a few words."""


class OuterWeights(NamedTuple):
    """How much each outer loss counts: `steps` (K,) as of `Objective.weights`, `tasks` (T,)."""

    steps: Tensor | None = None
    tasks: Tensor | None = None

    def at(self, t: int, last: bool) -> Tensor | None:
        """What the losses at phi_t are multiplied by: (T,) or a number, None for one.

        `last` takes the weights of all steps that are left: a loop that a tolerance ended early
        stands still for the rest of its steps.
        """
        if self.steps is None:
            return self.tasks
        step = self.steps[max(t - 1, 0) :].sum() if last else self.steps[t - 1]
        return step if self.tasks is None else step * self.tasks

    def of(self, losses: Tensor, t: int, last: bool) -> Tensor:
        """The losses (T,) at phi_t, weighted."""
        weight = self.at(t, last)
        return losses if weight is None else losses * weight

    def by_step(self) -> OuterWeights:
        """Those of the steps alone: what is told of a task does not depend on its own weight."""
        return OuterWeights(self.steps)


MetaGradientFunction = Callable[[Params, Task, OuterWeights], MetaGradient]
"""Loss and gradient *summed* over the tasks; the caller divides by their number."""


class Sweeping(ABC):
    """A meta-gradient function made of five parts, its `turns`, which an engine may replace."""

    turns: Any
    path: Path
    exact: int

    @abstractmethod
    def repeats(self, least: int) -> bool:
        """Whether at least so many steps are the same tensor program, so that one serves all."""

    @abstractmethod
    def __call__(self, meta: Params, tasks: Task, weights: OuterWeights) -> MetaGradient: ...

    @abstractmethod
    def over(self, turns: Any) -> Sweeping:
        """The same function over other turns."""


class Estimator(ABC):
    """How dphi/dmeta is applied to a vector."""

    needs: type = Learner
    """The view of a learner that it differentiates."""

    @abstractmethod
    def on(self, learner: Learner, objective: Objective) -> MetaGradientFunction:
        """The meta-gradient of this learner under this objective, bound once.

        Raises `Refused`, naming both pieces and the fix.
        """

    def at(self, progress: float) -> Estimator:
        """The estimator for this fraction of a training: itself, unless it changes over one."""
        return self

    def program(self) -> Refusal | None:
        """Why its operations are not the same for all tasks of a shape; None if they are."""
        return None

    def look_at_the_end(self, weights: OuterWeights) -> None:
        """For estimators that know phi_K only: refuse losses at every step. Raises `Refused`."""
        if weights.steps is not None:
            raise Refused(
                f"`{type(self).__name__}` looks at phi_K only, and this objective has losses at "
                "every step. Use `Adjoint()`, or `Query(loss)`."
            )

    @abstractmethod
    def describe(self) -> str:
        """The estimator in a few words, for every table of results."""

    def seen(self, learner: Learner, view: type[V]) -> V:
        """The learner as this view. Raises `Refused`."""
        found = learner.offer(view)
        if isinstance(found, Refusal):
            raise Refused(
                f"`{type(self).__name__}` cannot differentiate `{type(learner).__name__}`: "
                f"{found.reason}. {found.fix}."
            )
        return found


def pull_by_autograd(
    step: Callable[[Params, Point, View], Point],
    meta: Params,
    point: Point,
    view: View,
    lam: Params,
    mu: Params,
) -> Cotangents:
    """The vjp of any step by autograd through it: the inner gradient enters as an input."""
    losses = view.losses.detach().requires_grad_()
    leaves = trees.join(
        phi=trees.leaves(point.phi),
        state=trees.leaves(point.state),
        grad=trees.leaves(view.grad),
        losses={"": losses},
        meta=meta,
    )
    with torch.enable_grad():
        before = Point(point.t, trees.part("phi", leaves), trees.part("state", leaves))
        after = step(meta, before, Given(losses, trees.part("grad", leaves)))
        found = trees.pull(
            [*after.phi.values(), *after.state.values()],
            leaves,
            [*(lam.get(k) for k in after.phi), *(mu.get(k) for k in after.state)],
        )
    return Cotangents(
        trees.part("phi", found),
        trees.part("grad", found),
        found.get(("losses", "")),
        trees.part("state", found),
        trees.part("meta", found),
    )

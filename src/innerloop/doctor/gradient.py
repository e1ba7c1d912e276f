"""How right a meta-gradient estimator is on a given model, how long it takes, what it needs."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ..core import path as loop
from ..core.contract import (
    Estimator,
    Learner,
    MetaGradientFunction,
    Objective,
    OuterWeights,
    Point,
    Refused,
)
from ..core.types import MetaGradient, Params, Task, leaf, to
from ..estimate import (
    Adjoint,
    FiniteDifference,
    FirstOrder,
    ForwardOverReverse,
    Implicit,
    Reptile,
    ReverseOverReverse,
    Unrolled,
)
from ..method import Method
from .memory import peak_memory

DENSE_LIMIT = 500
"""Meta-parameters up to which the objective itself is differenced, entry by entry."""

ESTIMATORS: Mapping[str, Callable[[], Estimator]] = {
    "unrolled": Unrolled,
    "adjoint": lambda: Adjoint(ReverseOverReverse()),
    "adjoint-forward": lambda: Adjoint(ForwardOverReverse()),
    "adjoint-checkpointed": lambda: Adjoint(store_every=3),
    "adjoint-difference": lambda: Adjoint(FiniteDifference()),
    "adjoint-last1": lambda: Adjoint(last=1),
    "first-order": FirstOrder,
    "implicit": Implicit,
    "reptile": Reptile,
}
"""The estimators that `check_gradient` tries unless told otherwise, by name."""


@dataclass(frozen=True)
class GradientRow:
    """One estimator on one model.

    `error` is |g - r| / |r| and `cosine` the cosine of g and r, in float64, r being the reference;
    `native_error` is that of the gradient in the model's own precision. `seconds` (median) and
    `peak_bytes` (beyond what was in use before) are of one meta-gradient in that precision,
    `memory` says how the peak was measured. `refused` says why an estimator could not be tried;
    the numbers are then None.
    """

    estimator: str
    error: float | None = None
    cosine: float | None = None
    native_error: float | None = None
    seconds: float | None = None
    peak_bytes: int | None = None
    memory: str = ""
    refused: str = ""


def check_gradient(
    method: Method,
    tasks: Task,
    estimators: Sequence[Estimator] | None = None,
    *,
    repeats: int = 3,
    dense_limit: int = DENSE_LIMIT,
) -> list[GradientRow]:
    """Every estimator against the dense reference on the user's model and tasks.

    The reference is autograd through the whole inner loop in float64, task by task. With at most
    `dense_limit` meta-parameters it is itself held against central differences of the objective:
    the first row. `estimators` are by default the method's own and all of `ESTIMATORS`. All see the
    same random numbers, and torch's global generator is left where it was. Nothing of `method`
    changes. Raises ValueError if the model does not run in float64.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    if estimators is None:
        named = [make() for make in ESTIMATORS.values()]
        known = {e.describe() for e in named}
        own = [] if method.estimator.describe() in known else [method.estimator]
        estimators = own + named
    double, wide = in_float64(method, tasks)
    reference = flat_gradient(double, wide, Unrolled(), chunk=1)
    rows = []
    if len(reference) <= dense_limit:
        dense = central_differences(double, wide)
        error, cosine = _compare(dense, reference)
        rows.append(GradientRow("central differences", error, cosine))
    rows += [_row(method, tasks, double, wide, e, reference, repeats) for e in estimators]
    return rows


def in_float64(method: Method, tasks: Task) -> tuple[Method, Task]:
    """Copies of both in double precision; integers stay integers."""

    return copy.deepcopy(method).double(), to(tasks, torch.float64)


def flat_gradient(
    method: Method, tasks: Task, estimator: Estimator, *, chunk: int | None = None, seed: int = 0
) -> Tensor:
    """The estimator's meta-gradient on the method's learner: its trainable entries, flat."""
    other = _with(method, estimator, chunk)
    trained = [k for k, p in method.named_parameters() if p.requires_grad]
    grads = _seeded(other, tasks, seed).grads
    return torch.cat([grads[k].reshape(-1) for k in trained])


def central_differences(
    method: Method,
    tasks: Task,
    directions: Tensor | None = None,
    *,
    step: float = 1e-5,
    seed: int = 0,
) -> Tensor:
    """The slope of the objective along each direction d of the meta-parameters m, no autograd.

    (4/3) [f(m + h d) - f(m - h d)] / 2h - (1/3) [f(m + 2h d) - f(m - 2h d)] / 4h,  h = `step`.

    f is the mean query loss after adaptation. `directions` is (D, P) over the P trainable entries,
    by default the P unit vectors. For methods in float64; the error is O(h^4) on smooth models.
    """
    scored = _with(copy.deepcopy(method), _Value(), None)
    moved = [p for p in scored.parameters() if p.requires_grad]
    centre = parameters_to_vector(moved).detach()
    rows = torch.eye(len(centre)).to(centre) if directions is None else directions
    slopes = []
    for d in rows:
        slope = torch.zeros_like(centre[0])
        for distance, weight in _STENCIL:
            with torch.no_grad():
                vector_to_parameters(centre + distance * step * d, moved)
            slope += weight * _seeded(scored, tasks, seed).loss / step
        slopes.append(slope)
    return torch.stack(slopes)


_STENCIL = ((1, 2 / 3), (-1, -2 / 3), (2, -1 / 12), (-2, 1 / 12))


class _Value(Estimator):
    """The objective alone; its gradient is not asked for."""

    def on(self, learner: Learner, objective: Objective) -> MetaGradientFunction:
        objective.bind(learner)

        @torch.no_grad()
        def value(meta: Params, tasks: Task, weights: OuterWeights) -> MetaGradient:
            losses: Tensor | float = 0.0
            points = _judged_points(learner, meta, tasks, weights)
            for point in points[:-1]:
                found = objective.losses(learner, meta, point, tasks).losses
                losses = losses + weights.of(found, point.t, last=False)
            outcome = objective.losses(learner, meta, points[-1], tasks)
            losses = losses + weights.of(outcome.losses, points[-1].t, last=True)
            zeros = {k: torch.zeros_like(v) for k, v in meta.items()}
            stats = loop.summary(objective, outcome, tasks)
            return MetaGradient(losses.sum(), zeros, stats)

        return value

    def describe(self) -> str:
        return "value only"


def _judged_points(
    learner: Learner, meta: Params, tasks: Task, weights: OuterWeights
) -> list[Point]:
    """The points that the objective looks at, phi_K last."""
    way = loop.trajectory(learner)
    if weights.steps is None or way is None:
        return [learner.adapt(meta, tasks.support)]
    start, *after = way.points(meta, tasks.support)
    return after or [start]


def _row(
    method: Method,
    tasks: Task,
    double: Method,
    wide: Task,
    estimator: Estimator,
    reference: Tensor,
    repeats: int,
) -> GradientRow:
    told = estimator.describe()
    try:
        estimator.on(method.learner, method.objective)
        error, cosine = _compare(flat_gradient(double, wide, estimator), reference)
        native, _ = _compare(flat_gradient(method, tasks, estimator).double(), reference)
    except Refused as refusal:
        return GradientRow(told, refused=str(refusal))
    except (RuntimeError, NotImplementedError) as failure:
        # A layer without this derivative; `innerloop.check` says which.
        return GradientRow(told, refused=str(failure).strip().splitlines()[0])
    run = _with(copy.deepcopy(method), estimator, None)
    device = leaf(tasks.support.x).device
    peak, how = peak_memory(lambda: _seeded(run, tasks, 0), device)
    seconds = statistics.median(_seconds(run, tasks, device) for _ in range(repeats))
    return GradientRow(told, error, cosine, native, seconds, peak, how)


def _with(method: Method, estimator: Estimator, chunk: int | None) -> Method:
    """The same learner under another estimator. It shares weights with `method`."""
    return method.replace(estimator=estimator, chunk=chunk)


def _seeded(method: Method, tasks: Task, seed: int) -> MetaGradient:
    """One meta-gradient with the random numbers of `seed`; torch's generator stays as it was."""
    device = leaf(tasks.support.x).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return method.meta_gradient(tasks)


def _seconds(method: Method, tasks: Task, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    _seeded(method, tasks, 0)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def _compare(value: Tensor, reference: Tensor) -> tuple[float, float]:
    """Relative error in norm, and cosine; both against a reference that must not be zero."""
    size = float(reference.norm())
    if size == 0:
        raise ValueError(
            "the reference meta-gradient is exactly zero: nothing can be compared with it; check "
            "that the loss depends on the model and that the tasks are not trivial"
        )
    length = float(value.norm())
    cosine = float(value @ reference) / (length * size) if length > 0 else 0.0
    return float((value - reference).norm()) / size, cosine

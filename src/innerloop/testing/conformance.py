"""What every composition must satisfy, measured."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..call.model import differentiable_kernels
from ..core import path as loop
from ..core import streams, trees
from ..core.contract import Estimator, Learner, OuterWeights, Path, Refusal
from ..core.types import Params, Task, count, mapped, rows, to
from ..doctor import central_differences
from ..doctor.gradient import flat_gradient
from ..estimate import (
    Adjoint,
    ConjugateGradient,
    Curvature,
    FiniteDifference,
    FirstOrder,
    ForwardOverReverse,
    Implicit,
    ReverseOverReverse,
    Unrolled,
    split,
)
from ..method import Method
from .case import Case, FeatureCase

BOUNDS: dict[str, float] = {
    "dense": 1e-6,
    "exact": 1e-10,
    "chunk": 1e-12,
    "order": 1e-12,
    "symmetry": 1e-10,
    "difference": 1e-4,
    "implicit": 1e-8,
}
"""The largest relative error that each comparison may show."""

EXACT: dict[str, Callable[[], Estimator]] = {
    "reverse over reverse": lambda: Adjoint(ReverseOverReverse()),
    "forward over reverse": lambda: Adjoint(ForwardOverReverse()),
    "every 2nd state kept": lambda: Adjoint(store_every=2),
    "curvature of all steps": lambda: Adjoint(last=1000),
}
"""Estimators of the exact gradient, beside `Unrolled`."""


@dataclass(frozen=True)
class Conformance:
    """The relative errors (in norm) of one case; see `BOUNDS` for what they may be.

    `dense`: `Unrolled` against central differences of the objective; None for a constant target.
    `exact`: each exact estimator against `Unrolled`. `chunk`: one task at a time against all at
    once. `order`: the meta-parameters in another order. `symmetry`: |<u, Hv> - <v, Hu>| against the
    larger. `implicit` only for converged cases. `first_order` is no error: it says how much second
    order matters here. What needs inner steps is None, and `exact` empty, for a learner that makes
    none.
    """

    case: Case | FeatureCase
    parameters: int
    size: float
    first_order: float | None
    dense: float | None
    exact: dict[str, float]
    chunk: float
    order: float
    symmetry: float | None
    difference: float | None
    implicit: float | None
    untouched: bool
    refused: tuple[str, ...] = field(default=())

    def failures(self) -> list[str]:
        """What is out of bounds, in words; empty for a case that conforms."""
        errors = {k: getattr(self, k) for k in BOUNDS if k != "exact"}
        errors |= {f"exact, {k}": v for k, v in self.exact.items()}
        found = [
            f"{k} is off by {v:.1e}, allowed {BOUNDS[k.split(',')[0]]:.0e}"
            for k, v in errors.items()
            # Written so that NaN fails.
            if v is not None and not v <= BOUNDS[k.split(",")[0]]
        ]
        forward = isinstance(self.case, FeatureCase) or self.case.forward_mode
        expected = () if forward else ("forward over reverse",)
        if self.refused != expected:
            found.append(f"refused by {self.refused}, expected {expected}")
        if not self.size > 1e-3:
            found.append(
                f"the reference gradient is only {self.size:.1e} long: nothing is compared"
            )
        if not self.untouched:
            found.append("the meta-model's parameters, buffers or modes were changed")
        return found


def check_case(
    case: Case | FeatureCase, *, dense: bool = False, device: str = "cpu"
) -> Conformance:
    """Measure one composition; `dense` differences every meta-parameter, not 3 directions."""
    learner, objective = case.learner().to(device), case.judged_by().to(device)
    tasks = to(case.tasks(), device)
    usual = case.estimator if isinstance(case, Case) else Unrolled
    method = Method(learner, objective, usual(), chunk=1)
    before = _state(learner)
    reference = flat_gradient(method, tasks, usual())
    fused = method.replace(chunk=count(tasks))
    exact: dict[str, float] = {}
    refused: list[str] = []
    implicit = first = difference = symmetry = None
    path = learner.offer(Path)  # type: ignore[type-abstract]
    if not isinstance(path, Refusal):
        for name, make in EXACT.items():
            try:
                exact[name] = _relative(flat_gradient(fused, tasks, make()), reference)
            except NotImplementedError:
                refused.append(name)
        first = _relative(flat_gradient(method, tasks, FirstOrder()), reference)
        estimator = Adjoint(FiniteDifference())
        difference = _relative(flat_gradient(method, tasks, estimator), reference)
        symmetry = _symmetry_error(learner, path, tasks, refused)
    if isinstance(case, Case) and case.converged:
        solved = Implicit(ConjugateGradient(len(reference)))
        implicit = _relative(flat_gradient(fused, tasks, solved), reference)
    moving = isinstance(case, Case) and case.constant_target
    return Conformance(
        case,
        len(reference),
        float(reference.norm()),
        first,
        None if moving else _dense_error(fused, tasks, reference, case.step, dense),
        exact,
        _relative(flat_gradient(fused, tasks, usual()), reference),
        _order_error(method, tasks, [usual, *(EXACT[k] for k in exact)]),
        symmetry,
        difference,
        implicit,
        _same(before, _state(learner)) and _adapts_apart(method, tasks),
        tuple(refused),
    )


def _dense_error(method: Method, tasks: Task, reference: Tensor, step: float, dense: bool) -> float:
    if dense:
        return _relative(reference, central_differences(method, tasks, step=step))
    generator = torch.Generator().manual_seed(2)
    size = (3, len(reference))
    directions = torch.randn(size, generator=generator, dtype=torch.float64).to(reference)
    # Unit length on average per entry of the gradient, so that no direction misses it.
    directions = directions / directions.norm(dim=1, keepdim=True) + reference / reference.norm()
    slopes = central_differences(method, tasks, directions, step=step)
    return _relative(directions @ reference, slopes)


def _order_error(method: Method, tasks: Task, makes: list[Callable[[], Estimator]]) -> float:
    """Hand the meta-parameters over in reverse order: every gradient must keep its name."""
    learner, objective = method.learner, method.objective
    tasks = _batchable(learner, tasks)
    named = dict(learner.named_parameters())
    named |= {f"objective.{k}": p for k, p in objective.named_parameters()}
    meta = {k: p.detach().requires_grad_(p.requires_grad) for k, p in named.items()}
    shuffled = {k: meta[k] for k in reversed(meta)}
    path = learner.offer(Path)  # type: ignore[type-abstract]
    steps = 0 if isinstance(path, Refusal) else path.steps
    weights = OuterWeights(objective.weights(steps, 0.0))
    errors = []
    for make in makes:
        function = make().on(learner, objective)
        with streams.common(0), differentiable_kernels():
            straight = function(meta, tasks, weights).grads
            turned = function(shuffled, tasks, weights).grads
        assert set(straight) == set(turned)
        errors.append(_relative(_flat(turned, straight), _flat(straight, straight)))
    return max(errors)


def _symmetry_error(learner: Learner, path: Path, tasks: Task, refused: list[str]) -> float:
    """<u, Hv> = <v, Hu> task by task, by two separate products of each exact oracle."""
    tasks = _batchable(learner, tasks)
    meta = {k: p.detach() for k, p in learner.named_parameters()}
    generator = torch.Generator().manual_seed(3)
    oracles: list[Curvature] = [ReverseOverReverse()]
    if not refused:
        oracles.append(ForwardOverReverse())
    errors = []
    with streams.common(0), differentiable_kernels():
        point = loop.begin(path, meta, tasks.support)
        phi = {k: v.clone() for k, v in point.phi.items()}
        losses = loop.losses_of(path, point, path.data(meta, point, tasks.support))
        u, v = (
            {
                k: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
                for k, p in phi.items()
            }
            for _ in range(2)
        )
        for oracle in oracles:
            hv, hu = (
                trees.filled(oracle.view(losses, meta, phi).product(w)[0], phi) for w in (v, u)
            )
            left, right = trees.dot(u, hv), trees.dot(v, hu)
            scale = trees.norm(hv) * trees.norm(u) + 1e-300
            errors.append(float(((left - right).abs() / scale).max()))
    return max(errors)


def _batchable(learner: Learner, tasks: Task) -> Task:
    """The first task alone, where layers do not batch."""
    alone = any(not call.batchable for call in learner.calls())
    return split(tasks, 1)[0] if alone else tasks


def _adapts_apart(method: Method, tasks: Task) -> bool:
    """Adapting leaves the meta-model as it is, bit for bit."""
    before = _state(method.learner)
    one = rows(tasks, slice(0, 1))
    x, y, q = (mapped(lambda v: v[0], tree) for tree in (*one.support[:2], one.query.x))
    module = method.adapt(x, y)
    module(**q) if isinstance(q, dict) else module(q)
    return _same(before, _state(method.learner))


def _state(learner: torch.nn.Module) -> dict[str, Tensor]:
    state = copy.deepcopy({**dict(learner.named_parameters()), **dict(learner.named_buffers())})
    modes = torch.tensor([m.training for m in learner.modules()])
    return {k: v.detach() for k, v in state.items()} | {" modes": modes}


def _same(a: Params, b: Params) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def _flat(tree: Params, order: Params) -> Tensor:
    return torch.cat([tree[k].reshape(-1) for k in order])


def _relative(value: Tensor, reference: Tensor) -> float:
    size = float(reference.norm())
    return float((value - reference).norm()) / size if size else float("inf")

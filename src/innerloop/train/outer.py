"""The outer optimiser: rate schedule, clipping, and the checks that no bad update is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.types import MetaGradient
from .hypergradient import AlphaMAML, Hypergradient
from .settings import Settings


class NonFiniteError(ValueError):
    """A loss, meta-gradient or update that is not finite; parameters are as they were before it."""


class OuterOptimizer:
    """Adam or SGD on the parameters of a method, fed with given gradients.

    With `outer_hyper` the rate follows its hypergradient, the product of the (clipped) gradient
    with the direction that the optimiser last took.
    """

    def __init__(self, method: nn.Module, settings: Settings) -> None:
        self._named = {k: p for k, p in method.named_parameters() if p.requires_grad}
        if not self._named:
            raise ValueError(
                "the method has no parameter to train: every one has requires_grad=False"
            )
        if settings.problems():
            raise ValueError("; ".join(f"train.{problem}" for problem in settings.problems()))
        self._settings = settings
        apart = AlphaMAML.inner_rates(method) if settings.inner_hyper is not None else {}
        plain = _plain(settings, [p for k, p in self._named.items() if k not in apart])
        hyper, normalised = settings.outer_hyper, settings.normalised_hyper
        self.optimizer: torch.optim.Optimizer | Hypergradient | AlphaMAML = plain
        if settings.inner_hyper is not None and hyper is not None:
            self.optimizer = AlphaMAML(
                method,
                plain,
                inner_hyper=settings.inner_hyper,
                outer_hyper=hyper,
                normalised=normalised,
            )
        elif hyper is not None:
            self.optimizer = Hypergradient(plain, hyper, normalised=normalised)

    def update(self, result: MetaGradient, progress: float, where: str) -> float:
        """One step along `result.grads`; returns the norm of the gradient before clipping.

        `progress` in [0, 1] places the step in the schedule; `where` names step and tasks in the
        error.

        Raises:
            NonFiniteError: naming the tasks and gradients, or the parameters that the update would
                have spoiled; parameters and optimiser are as they were.
        """
        grads = {k: result.grads[k] for k in self._named}
        norm = torch.nn.utils.get_total_norm(list(grads.values()))
        total = float(norm)
        if not math.isfinite(total) or not math.isfinite(float(result.loss)):
            raise NonFiniteError(f"{_blame(result, grads)} {where}")
        self._clip(grads, norm)
        for name, parameter in self._named.items():
            parameter.grad = grads[name]
        if self._settings.outer_hyper is None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(progress)
        self._step(where)
        return total

    def _step(self, where: str) -> None:
        """The optimiser's step, taken back if a parameter is not finite after it.

        The copy lives as long as the step, when nothing of the meta-gradient's memory is in use.
        """
        parameters = [p.detach() for p in self._named.values()]
        before = [p.clone() for p in parameters]
        state = _copy(self.optimizer.state_dict())
        self.optimizer.step()
        if bool(torch.nn.utils.get_total_norm(parameters, math.inf).isfinite()):
            return
        spoiled = [k for k, p in self._named.items() if not bool(p.isfinite().all())]
        rate = float(self.optimizer.param_groups[0]["lr"])
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
        self.optimizer.load_state_dict(state)
        raise NonFiniteError(
            f"{_few('parameter', spoiled)} would not be finite after an outer step at the rate "
            f"{rate:g} {where}"
        )

    def rates(self) -> dict[str, float]:
        """The outer rate of the last step, and the mean of inner rates that are learned apart."""
        found = {"lr": float(self.optimizer.param_groups[0]["lr"])}
        if isinstance(self.optimizer, AlphaMAML):
            inner = [p for group in self.optimizer.inner.param_groups for p in group["params"]]
            found["inner_lr"] = float(torch.cat([p.detach().flatten() for p in inner]).mean())
        return found

    def rate(self, progress: float) -> float:
        """The scheduled outer rate when a fraction `progress` of the run is over."""
        factor = {
            "constant": 1.0,
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        }[self._settings.schedule]
        end = self._settings.lr_end
        return end + (self._settings.lr - end) * factor

    def _clip(self, grads: Mapping[str, Tensor], norm: Tensor) -> None:
        tensors = list(grads.values())
        if self._settings.clip_value is not None:
            for tensor in tensors:
                tensor.clamp_(-self._settings.clip_value, self._settings.clip_value)
            norm = torch.nn.utils.get_total_norm(tensors)
        if self._settings.clip_norm is not None:
            scale = torch.clamp(self._settings.clip_norm / (norm + 1e-12), max=1.0)
            torch._foreach_mul_(tensors, scale)


def _plain(settings: Settings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser by itself, at the rate that the run starts with."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.lr, momentum=settings.momentum)
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    return torch.optim.Adam(parameters, lr=settings.lr, eps=settings.eps, fused=fused)


def _copy(state: Any) -> Any:
    """A state_dict with tensors of its own: an optimiser's go on changing in place."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {k: _copy(v) for k, v in state.items()}
    return [_copy(v) for v in state] if isinstance(state, list) else state


def _blame(result: MetaGradient, grads: Mapping[str, Tensor]) -> str:
    """What is not finite: the losses of which tasks, or the gradients of which parameters."""
    losses = result.stats.get("loss")
    if losses is not None and not bool(losses.isfinite().all()):
        tasks = (~losses.isfinite()).nonzero().flatten().tolist()
        return f"the query loss of {_few('task', tasks)} (counted from 0) is not finite"
    if not bool(result.loss.isfinite()):
        return "the query loss is not finite"
    names = [k for k, g in grads.items() if not bool(g.isfinite().all())]
    if not names:
        return "the norm of the meta-gradient overflows"
    return f"the meta-gradient of {_few('parameter', names)} is not finite"


def _few(noun: str, items: list[str] | list[int]) -> str:
    shown = ", ".join(map(str, items[:8])) + (f" and {len(items) - 8} more" if items[8:] else "")
    return f"{noun}{'s' if len(items) > 1 else ''} {shown}"

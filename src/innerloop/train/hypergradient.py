"""Learning rates that descend their own gradient: Alpha MAML."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..core.rates import Rate


class Hypergradient:
    """A torch optimiser whose rate follows its hypergradient.

    The last update moved theta by -rate * d, so that -dF/drate at the new theta is <grad F, d>:

        rate <- max(0, rate + hyper * <grad_t, d_{t-1}>),  then  theta <- theta - rate * d_t.

    d is the direction the optimiser took for a rate of one, whatever it is: under plain SGD it is
    the last gradient (the rule of Baydin et al. and of Alpha MAML), under Adam Adam's direction.
    So `optimizer` must move in proportion to its rate, as those of torch do. Each parameter group
    has a rate of its own. `normalised` divides the product by |grad| |d|: `hyper` is then the
    largest change of the rate per step. One copy of the parameters is kept.

    Source: Baydin et al. 2018; Behl et al. 2019 (Alpha MAML), outer rate. The bound at zero is
    ours: below it the update would climb.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, hyper: float, *, normalised: bool = False
    ) -> None:
        if not hyper >= 0 or math.isinf(hyper):
            raise ValueError(f"expected a hyper-rate >= 0, such as 1e-6, got hyper={hyper!r}")
        self.optimizer = optimizer
        self.hyper = hyper
        self.normalised = normalised
        self._directions: dict[nn.Parameter, Tensor] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self) -> None:
        """Adapt each group's rate by the gradients in `.grad`, then make the step with it."""
        for group in self.param_groups:
            group["lr"] = max(0.0, float(group["lr"]) + self.hyper * self._slope(group["params"]))
        rates = [group["lr"] for group in self.param_groups]
        moved = [(p, p.clone()) for p in self._moving()]
        for group in self.param_groups:
            group["lr"] = 1.0
        try:
            self.optimizer.step()
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate
        rate_of = {id(p): g["lr"] for g in self.param_groups for p in g["params"]}
        for p, before in moved:
            self._directions[p] = before - p
            p.copy_(before - rate_of[id(p)] * self._directions[p])

    def _moving(self) -> list[nn.Parameter]:
        return [p for g in self.param_groups for p in g["params"] if p.grad is not None]

    def _slope(self, parameters: list[nn.Parameter]) -> float:
        """<grad, d>, or its cosine; zero before the first step."""
        pairs = [
            (p.grad, self._directions[p])
            for p in parameters
            if p.grad is not None and p in self._directions
        ]
        if not pairs:
            return 0.0
        product = torch.stack([(g * d).sum() for g, d in pairs]).sum()
        if self.normalised:
            product = product / (_norm([g for g, _ in pairs]) * _norm([d for _, d in pairs]))
        # A product that is not a number (a zero direction) says nothing about the rate.
        return float(torch.nan_to_num(product, 0.0, 0.0, 0.0))

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state, its rates among it, and the last directions."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        directions = {i: self._directions[p] for i, p in enumerate(parameters) if self._has(p)}
        return {"optimizer": self.optimizer.state_dict(), "directions": directions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        parameters = [p for group in self.param_groups for p in group["params"]]
        self._directions = {
            parameters[i]: d.clone().to(parameters[i]) for i, d in state["directions"].items()
        }

    def _has(self, p: nn.Parameter) -> bool:
        return p in self._directions


class AlphaMAML:
    """The outer optimiser of Alpha MAML: it adapts the inner and the outer rate.

        alpha <- alpha + inner_hyper * mean_i <grad L_i(phi_i), grad L_support,i(theta)>,
        beta  <- beta  + outer_hyper * <G_t, d_{t-1}>,

    alpha being the parameters of every `core.rates.Rate` of the method: with one step of
    `GradientDescent(Scalar(lr), 1)` the first line is plain gradient descent on it, and with more
    steps its exact gradient is used. beta is the rate of `optimizer`, which holds all other
    parameters of `method`; see `Hypergradient` for d. Where the authors add up the tasks, the mean
    is used here.

    Source: Behl, Baydin, Torr 2019 (Alpha MAML).
    """

    def __init__(
        self,
        method: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        inner_hyper: float,
        outer_hyper: float,
        normalised: bool = False,
    ) -> None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        rates = self.inner_rates(method)
        both = [k for k, p in rates.items() if id(p) in held]
        if not rates or both:
            raise ValueError(
                f"the optimiser also holds {', '.join(both)}, which Alpha MAML updates by itself; "
                "give it the parameters that are not in `AlphaMAML.inner_rates(method)`"
                if both
                else "Alpha MAML adapts a learned inner rate and the method has none; use "
                "GradientDescent(Scalar(lr), steps), or method.kind=alpha_maml"
            )
        self.outer = Hypergradient(optimizer, outer_hyper, normalised=normalised)
        self.inner = torch.optim.SGD(list(rates.values()), lr=inner_hyper)

    @staticmethod
    def inner_rates(method: nn.Module) -> dict[str, nn.Parameter]:
        """The learned inner rates of a method, by name: not what else its solver may learn."""
        return {
            f"{place}.{name}": parameter
            for place, module in method.named_modules()
            if isinstance(module, Rate)
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the outer rate."""
        return self.outer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.outer.zero_grad(set_to_none)
        self.inner.zero_grad(set_to_none)

    def step(self) -> None:
        self.outer.step()
        self.inner.step()

    def state_dict(self) -> dict[str, Any]:
        return {"outer": self.outer.state_dict(), "inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.outer.load_state_dict(state["outer"])
        self.inner.load_state_dict(state["inner"])


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack([t.square().sum() for t in tensors]).sum().sqrt()

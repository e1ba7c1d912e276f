"""Weights of task groups that follow the largest loss: TR-MAML's min-max outer objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Update = Literal["projected", "exponentiated"]


class TaskWeights:
    """One weight per named group of tasks, on the simplex, by ascent on the groups' losses.

        min_theta max_p  sum_g p_g F_g(theta),    p >= 0,  sum_g p_g = 1,

    where F_g is the expected query loss of a task of group g. Of T tasks, task i from group g(i),
    which is drawn with probability q_g (1/m for m groups, or `frequency`), both players see an
    unbiased estimate:

        theta descends  1/T sum_i p_g(i) / q_g(i) L_i,
        p     ascends   a_g = 1/T sum_{i: g(i) = g} L_i / q_g,

    "projected": p <- the nearest point of the simplex to p + lr a; "exponentiated": p proportional
    to p exp(lr a), which never becomes zero. Every estimator is
    weighted exactly.

    Raises ValueError for fewer than two groups or equal names, lr < 0, and frequencies that are not
    positive or do not add up to one.

    Source: Collins, Mokhtari, Shakkottai 2020 (TR-MAML), algorithm 1. The authors' code leaves m/T
    out of a: its `p_lr` is our lr times m/T.
    """

    def __init__(
        self,
        groups: Sequence[str],
        *,
        lr: float,
        update: Update = "projected",
        frequency: Sequence[float] | None = None,
    ) -> None:
        self.groups = tuple(groups)
        m = len(self.groups)
        if m < 2 or len(set(self.groups)) < m:
            raise ValueError(
                f"expected at least two groups of tasks with different names, got {self.groups}"
            )
        if not 0 <= lr < float("inf"):
            raise ValueError(f"expected lr >= 0, such as 1e-3, got lr={lr!r}")
        if update not in get_args(Update):
            raise ValueError(f"update must be one of {', '.join(get_args(Update))}, got {update!r}")
        self.lr, self.update = lr, update
        self._q = torch.full((m,), 1 / m, dtype=torch.float64)
        if frequency is not None:
            self._q = torch.tensor(list(frequency), dtype=torch.float64)
            one = torch.ones((), dtype=torch.float64)
            if len(self._q) != m or bool((self._q <= 0).any()) or not self._q.sum().isclose(one):
                raise ValueError(
                    f"expected {m} positive frequencies that add up to 1, one per group, got "
                    f"{list(frequency)}"
                )
        self.p = torch.full((m,), 1 / m, dtype=torch.float64)

    def factors(self, group: Tensor) -> Tensor:
        """p_g / q_g of each task (T,), for `Method.meta_gradient(tasks, weight=...)`.

        `group` is int64 (T,), numbers in `groups`. Raises ValueError for others.
        """
        if group.dtype != torch.int64 or group.dim() != 1:
            raise ValueError(
                f"expected group as int64 of shape (T,), one number per task, got {group.dtype} "
                f"{tuple(group.shape)}"
            )
        if int(group.min()) < 0 or int(group.max()) >= len(self.groups):
            raise ValueError(
                f"group runs from {int(group.min())} to {int(group.max())}, but there are "
                f"{len(self.groups)} groups, 0 to {len(self.groups) - 1}"
            )
        return (self.p / self._q)[group.cpu()]

    def step(self, losses: Tensor, group: Tensor) -> None:
        """Ascend: `losses` (T,) of tasks of these groups. Raises ValueError if one is not finite.

        With the losses of the weights that theta descended, before or after theta's own step.
        """
        losses = losses.detach().to("cpu", torch.float64)
        if losses.shape != group.shape or not bool(losses.isfinite().all()):
            raise ValueError(
                f"expected one finite loss per task, (T,) as group {tuple(group.shape)}, got "
                f"{tuple(losses.shape)} of which {int(losses.isfinite().sum())} are finite"
            )
        ascent = torch.zeros_like(self.p).index_add_(0, group.cpu(), losses)
        ascent = self.lr * ascent / (len(losses) * self._q)
        if self.update == "projected":
            self.p = projected(self.p + ascent)
        else:
            self.p = torch.softmax(self.p.log() + ascent, 0)

    def state_dict(self) -> dict[str, Any]:
        return {"groups": list(self.groups), "p": self.p.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError for the weights of other groups."""
        if tuple(state["groups"]) != self.groups:
            raise ValueError(
                f"these are weights of {len(state['groups'])} other groups ({state['groups'][:4]}, "
                f"...), expected {list(self.groups[:4])}, ...: start the run again"
            )
        self.p = state["p"].clone()


def projected(point: Tensor) -> Tensor:
    """The nearest point of the probability simplex to `point` (m,): max(point - tau, 0).

    Source: Wang and Carreira-Perpinan 2013, algorithm 1.
    """
    falling = point.sort(descending=True).values
    count = torch.arange(1, len(point) + 1, dtype=point.dtype)
    tau = (falling.cumsum(0) - 1) / count
    last = int((falling > tau).sum()) - 1
    return (point - tau[last]).clamp(min=0.0)

"""Regression tasks made of numbers: sine curves, and linear-Gaussian tasks with known answers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.types import Batch, Task
from ..source import Source, Spec
from ..transfer import to_device


class Curves(NamedTuple):
    """The parameters of T sine tasks, (T, 1) each."""

    amplitude: Tensor
    phase: Tensor
    frequency: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """y = A sin(f x - phase) for x of shape (T, n, 1)."""
        amplitude, phase, frequency = (value.unsqueeze(-1) for value in self)
        return amplitude * torch.sin(frequency * x - phase)


class Sine(Source):
    """y = A sin(f x - phase); A from U[0.1, 5], phase from U[0, pi], f = 1, x from U[-5, 5].

    x and y are (T, n, 1). The ranges can be moved for extrapolation experiments and for the family
    of Meta-SGD, y = A sin(f x + b) with b from U[0, pi]: `frequency=(0.8, 1.2)`,
    `phase=(-math.pi, 0.0)`. Draws are made on the CPU in float64 and then converted, so a seed
    means the same tasks everywhere.

    Raises ValueError for shot or queries below 1 and for an empty range.

    Source: Finn et al. 2017 (MAML), section 5.1, and its released code; Li et al. 2017 (Meta-SGD),
    section 4.1, for the frequency.
    """

    def __init__(
        self,
        *,
        shot: int = 10,
        queries: int = 10,
        amplitude: tuple[float, float] = (0.1, 5.0),
        phase: tuple[float, float] = (0.0, math.pi),
        frequency: tuple[float, float] = (1.0, 1.0),
        x: tuple[float, float] = (-5.0, 5.0),
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_sizes(shot, queries)
        ranges = {"amplitude": amplitude, "phase": phase, "frequency": frequency, "x": x}
        for name, (low, high) in ranges.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"{name} must be a finite range (low, high), got ({low}, {high})")
        self.shot, self.queries = shot, queries
        self.amplitude, self.phase, self.frequency, self.x = amplitude, phase, frequency, x
        self.dtype, self.device = dtype, torch.device(device)
        self.spec = Spec("regression", (1,), 1)

    def sample(self, generator: torch.Generator, n: int) -> Task:
        """`n` stacked tasks."""
        return self.sample_with_curves(generator, n)[0]

    def sample_with_curves(self, generator: torch.Generator, n: int) -> tuple[Task, Curves]:
        """`n` stacked tasks and the true curves behind them."""
        _check_count(n)
        amplitude, phase = (_uniform(r, (n, 1), generator) for r in (self.amplitude, self.phase))
        x = _uniform(self.x, (n, self.shot + self.queries, 1), generator)
        # Drawn last: where it is one number, a seed means the tasks that it meant without it.
        curves = Curves(amplitude, phase, _uniform(self.frequency, (n, 1), generator))
        drawn = [value.to(self.dtype) for value in (x, curves(x), *curves)]
        x, y, *found = to_device(drawn, self.device)
        task = Task(
            Batch(x[:, : self.shot], y[:, : self.shot]), Batch(x[:, self.shot :], y[:, self.shot :])
        )
        return task, Curves(*found)

    def describe(self) -> dict[str, str]:
        """Sizes and ranges."""
        return {
            "source": "sine",
            "shot": str(self.shot),
            "queries": str(self.queries),
            "amplitude": "{:g}..{:g}".format(*self.amplitude),
            "phase": "{:g}..{:g}".format(*self.phase),
            "frequency": "{:g}..{:g}".format(*self.frequency),
            "x": "{:g}..{:g}".format(*self.x),
        }


class LinearGaussian(Source):
    """y = x w + noise e with w ~ N(mean, spread² I), x and e standard normal: all optima are known.

    x is (T, n, d), y is (T, n, 1). `optimum` gives the least-squares (or proximal) weights of each
    task in closed form, and `mean` is the best initialisation: with gradient descent on the squared
    error, however many steps, the expected outer loss is smallest there.

    Raises ValueError for sizes below 1, a mean that is not (d,), and negative spread or noise.
    """

    def __init__(
        self,
        *,
        mean: Tensor,
        spread: float = 1.0,
        noise: float = 0.0,
        shot: int = 5,
        queries: int = 15,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_sizes(shot, queries)
        if mean.ndim != 1 or not len(mean) or not mean.dtype.is_floating_point:
            raise ValueError(
                f"mean must be floating point of shape (d,), got {mean.dtype}, {tuple(mean.shape)}"
            )
        if spread < 0 or noise < 0:
            raise ValueError(f"spread and noise must be >= 0, got {spread} and {noise}")
        self.mean = mean.to(device)
        self.spread, self.noise = spread, noise
        self.shot, self.queries = shot, queries
        self.spec = Spec("regression", (len(mean),), 1)

    def sample(self, generator: torch.Generator, n: int) -> Task:
        """`n` stacked tasks."""
        return self.sample_with_weights(generator, n)[0]

    def sample_with_weights(self, generator: torch.Generator, n: int) -> tuple[Task, Tensor]:
        """`n` stacked tasks and their true weights w, (T, d)."""
        _check_count(n)
        d, rows = len(self.mean), self.shot + self.queries
        weight = self.mean + self.spread * self._normal((n, d), generator)
        x = self._normal((n, rows, d), generator)
        y = x @ weight.unsqueeze(-1) + self.noise * self._normal((n, rows, 1), generator)
        task = Task(
            Batch(x[:, : self.shot], y[:, : self.shot]), Batch(x[:, self.shot :], y[:, self.shot :])
        )
        return task, weight

    @staticmethod
    def optimum(batch: Batch, *, penalty: float = 0.0, centre: Tensor | None = None) -> Tensor:
        """argmin_w mean((y - x w)²) + penalty/2 |w - centre|², for each task: (T, d).

        Solves (2/n XᵀX + penalty I) w = 2/n Xᵀy + penalty centre; `centre` is (d,) or (T, d),
        default 0. Raises ValueError when fewer examples than d leave it undetermined.
        """
        t, n, d = batch.x.shape
        if penalty < 0 or (penalty == 0 and n < d):
            raise ValueError(
                f"{n} examples do not determine {d} weights without a penalty > 0, got {penalty}"
            )
        centre = batch.x.new_zeros(d) if centre is None else centre
        eye = torch.eye(d, dtype=batch.x.dtype, device=batch.x.device)
        matrix = 2 / n * batch.x.mT @ batch.x + penalty * eye
        right = 2 / n * (batch.x.mT @ batch.y).squeeze(-1) + penalty * centre.expand(t, d)
        return torch.linalg.solve(matrix, right.unsqueeze(-1)).squeeze(-1)

    def describe(self) -> dict[str, str]:
        """Sizes and the distribution of the tasks."""
        return {
            "source": "linear-gaussian",
            "shot": str(self.shot),
            "queries": str(self.queries),
            "d": str(len(self.mean)),
            "spread": f"{self.spread:g}",
            "noise": f"{self.noise:g}",
        }

    def _normal(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        return to_device([drawn.to(self.mean.dtype)], self.mean.device)[0]


def _uniform(
    bounds: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(
        shape, generator=generator, dtype=torch.float64, device="cpu"
    )


def _check_sizes(shot: int, queries: int) -> None:
    if shot < 1:
        raise ValueError(f"shot must be at least 1: the support set would be empty, got {shot}")
    if queries < 1:
        raise ValueError(f"queries must be at least 1: the query set would be empty, got {queries}")


def _check_count(n: int) -> None:
    if n < 1:
        raise ValueError(f"the number of tasks must be at least 1, got {n}")

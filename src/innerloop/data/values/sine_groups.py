"""Sine curves in groups of similar amplitude: what task-robust training is shown on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.types import Batch, Task
from ..source import Source, Spec, Splits
from ..transfer import to_device


class SineGroups(Source):
    """y = A sin(x - phase), A uniform within a bin; every bin is a group, as likely as any other.

    `ranges` are cut into bins of `bin_width`: a range may be rare (few bins) or common. Phase from
    U[0, pi], x from U[-5, 5]; x and y are (T, n, 1), drawn on the CPU in float64.

    Raises ValueError for shot or queries below 1, and for ranges that are no whole number of bins.
    """

    def __init__(
        self,
        *,
        shot: int = 10,
        queries: int = 10,
        ranges: tuple[tuple[float, float], ...] = ((0.1, 1.05), (4.95, 5.0)),
        bin_width: float = 0.01,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if shot < 1 or queries < 1:
            raise ValueError(f"shot and queries must be at least 1, got {shot} and {queries}")
        lows: list[float] = []
        for low, high in ranges:
            bins = round((high - low) / bin_width) if bin_width > 0 else 0
            if bins < 1 or not math.isclose(bins * bin_width, high - low, rel_tol=1e-6):
                raise ValueError(
                    f"expected ranges of a whole number of bins of width {bin_width:g}, got "
                    f"({low:g}, {high:g}); change data.ranges or data.bin_width"
                )
            lows += [low + i * bin_width for i in range(bins)]
        self.shot, self.queries, self.ranges, self.bin_width = shot, queries, ranges, bin_width
        self.dtype, self.device = dtype, torch.device(device)
        self.spec = Spec("regression", (1,), 1)
        self._lows = torch.tensor(lows, dtype=torch.float64, device="cpu")
        self.groups = tuple(f"amplitude {low:.6g}..{low + bin_width:.6g}" for low in lows)

    def sample(self, generator: torch.Generator, n: int) -> Task:
        """`n` stacked tasks."""
        if n < 1:
            raise ValueError(f"the number of tasks must be at least 1, got {n}")
        low = self._lows[self._draw_groups(generator, n)]

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")

        amplitude = (low + self.bin_width * uniform(n)).reshape(n, 1, 1)
        phase = math.pi * uniform(n, 1, 1)
        x = 10 * uniform(n, self.shot + self.queries, 1) - 5
        y = amplitude * torch.sin(x - phase)
        x, y = to_device([x.to(self.dtype), y.to(self.dtype)], self.device)
        return Task(
            Batch(x[:, : self.shot], y[:, : self.shot]), Batch(x[:, self.shot :], y[:, self.shot :])
        )

    def task_groups(self, generator: torch.Generator, n: int) -> Tensor:
        """As `Source.task_groups`: the bin of each task's amplitude."""
        before = generator.get_state()
        group = self._draw_groups(generator, n)
        generator.set_state(before)
        return group

    def describe(self) -> dict[str, str]:
        """Sizes, ranges, and the number of bins."""
        return {
            "source": "sine groups",
            "shot": str(self.shot),
            "queries": str(self.queries),
            "amplitude": ", ".join(f"{low:g}..{high:g}" for low, high in self.ranges),
            "groups": str(len(self.groups)),
        }

    def _draw_groups(self, generator: torch.Generator, n: int) -> Tensor:
        return torch.randint(len(self.groups), (n,), generator=generator, device="cpu")


def sine_groups(
    *,
    shot: int = 10,
    queries: int = 10,
    ranges: tuple[tuple[float, float], ...] = ((0.1, 1.05), (4.95, 5.0)),
    test_ranges: tuple[tuple[float, float], ...] = ((0.1, 5.0),),
    bin_width: float = 0.01,
    device: torch.device | str = "cpu",
) -> Splits:
    """Training on many small amplitudes and a few large ones, test on all of them alike.

    Source: Collins et al. 2020 (TR-MAML), the authors' code: 95 bins of width 0.01 from 0.1 on and
    5 up to 5.0 in training, all 490 bins between 0.1 and 5.0 at test.
    """
    train = SineGroups(
        shot=shot, queries=queries, ranges=ranges, bin_width=bin_width, device=device
    )
    test = SineGroups(
        shot=shot, queries=queries, ranges=test_ranges, bin_width=bin_width, device=device
    )
    return Splits(train, test, test)

"""Your own module, your own tasks, your own training loop.

A thermometer that has not been calibrated: each one bends the true temperature in its own way, and
a few known pairs must be enough to calibrate it. A task is one thermometer, its support set the
known pairs, its query set later readings. Nothing here comes from innerloop but the meta-gradient.

    python examples/own_loop.py                 # half a minute on a laptop
    python examples/own_loop.py --iterations 50
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import innerloop


class Calibration(nn.Module):
    """Reading (n, 1) to temperature (n, 1), both scaled to about [-1, 1]: a line plus a bend."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)
        self.bend = nn.Sequential(
            nn.Linear(1, width), nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, reading: Tensor) -> Tensor:
        return self.line(reading) + self.bend(reading)


def thermometers(generator: torch.Generator, tasks: int, shot: int, queries: int) -> innerloop.Task:
    """`tasks` thermometers with `shot` known pairs and `queries` later readings each."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    gain, offset, bend = (uniform(*r, tasks, 1, 1) for r in ((0.6, 1.4), (-0.4, 0.4), (-0.2, 0.2)))
    truth = uniform(-1, 1, tasks, shot + queries, 1)
    reading = gain * truth + offset + bend * truth**2
    reading = reading + 0.01 * torch.randn(reading.shape, generator=generator)
    return innerloop.Task(
        support=innerloop.Batch(reading[:, :shot], truth[:, :shot]),
        query=innerloop.Batch(reading[:, shot:], truth[:, shot:]),
    )


def train(iterations: int, tasks: int, shot: int) -> tuple[innerloop.Method, float, float]:
    """Meta-train, then measure on thermometers never seen: (method, error before, error after).

    The errors are root mean square errors of the temperature, before and after adaptation.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    method = innerloop.methods.maml(Calibration(), lr=0.1, steps=3, loss="mse")
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for _ in range(iterations):
        loss = method.loss(thermometers(generator, tasks, shot, queries=16))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    unseen = thermometers(torch.Generator().manual_seed(2), 200, shot, queries=50)
    outputs = method.query_outputs(unseen)  # (steps + 1, tasks, queries, 1)
    errors = (outputs - unseen.query.y).square().mean(dim=(1, 2, 3)).sqrt()
    return method, float(errors[0]), float(errors[-1])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="meta-learn to calibrate thermometers")
    parser.add_argument("--iterations", type=int, default=1000, help="outer steps")
    parser.add_argument("--tasks", type=int, default=16, help="thermometers per outer step")
    parser.add_argument("--shot", type=int, default=5, help="known pairs per thermometer")
    options = parser.parse_args(arguments)

    method, before, after = train(options.iterations, options.tasks, options.shot)
    print(f"unseen thermometers, {options.shot} known pairs: RMS error {before:.3f} -> {after:.3f}")

    mine = thermometers(torch.Generator().manual_seed(3), 1, options.shot, queries=5)
    calibrated = method.adapt(mine.support.x[0], mine.support.y[0])  # a plain nn.Module
    with torch.no_grad():
        temperatures = calibrated(mine.query.x[0])
    for reading, value, truth in zip(
        mine.query.x[0, :, 0], temperatures[:, 0], mine.query.y[0, :, 0], strict=True
    ):
        print(f"reading {reading:+.2f}  temperature {value:+.3f}  truth {truth:+.3f}")


if __name__ == "__main__":
    main()

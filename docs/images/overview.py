"""Draws overview.png, the picture of the README: python docs/images/overview.py (a minute)."""

from __future__ import annotations

from pathlib import Path

import torch

from innerloop import Batch, Method, Task, methods
from innerloop.core.contract import Estimator
from innerloop.data.values.synthetic import Sine
from innerloop.doctor.memory import peak_memory
from innerloop.estimate import Adjoint, Unrolled
from innerloop.models import Conv4, mlp
from innerloop.report.plot import style

ITERATIONS = 8000
STEPS = (1, 2, 5, 10, 20, 40)


def sine_method() -> Method:
    """MAML on sine waves, 10 points, one step; far from converged but clearly adapting."""
    torch.manual_seed(0)
    source, generator = Sine(shot=10, queries=10), torch.Generator().manual_seed(0)
    method = methods.maml(mlp(1, 1, (40, 40)), lr=0.01, steps=1, loss="mse")
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3)
    for _ in range(ITERATIONS):
        loss = method.loss(source.sample(generator, 25))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return method


def draw_sine(axes, method: Method) -> None:
    # Seed 0: five points that lie apart, so that the wave can be told from them.
    task, curves = Sine(shot=5, queries=1).sample_with_curves(torch.Generator().manual_seed(0), 1)
    x = torch.linspace(-5, 5, 200).reshape(1, -1, 1)
    outputs = method.query_outputs(Task(task.support, Batch(x, curves(x))), steps=10)[:, 0, :, 0]
    x = x.flatten()
    axes.plot(x, curves(x.reshape(1, -1, 1)).flatten(), color=style.FAINT, lw=5, label="truth")
    axes.plot(x, outputs[0], color=style.MUTED, ls=":", label="before")
    axes.plot(x, outputs[1], color=style.GREEN, label="after 1 step")
    axes.plot(x, outputs[10], color=style.BLUE, label="after 10 steps")
    axes.plot(
        task.support.x.flatten(), task.support.y.flatten(), "o", color=style.INK, label="5 examples"
    )
    axes.set_xlabel("x")
    axes.set_title("an unseen sine wave, learned from 5 points")
    axes.legend(loc="upper left", ncols=2)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.35 * (high - low))


def megabytes(estimator: Estimator, steps: int) -> float:
    """Peak memory of one meta-gradient of Conv4-64, 5-way 5-shot, one task."""
    torch.manual_seed(0)
    labels = torch.arange(5).repeat_interleave(5)[None]
    batch = Batch(torch.rand(1, 25, 1, 28, 28), labels)
    method = methods.maml(Conv4(5), lr=0.1, steps=steps, estimator=estimator)
    return (
        peak_memory(lambda: method.meta_gradient(Task(batch, batch)), torch.device("cpu"))[0] / 1e6
    )


def draw_memory(axes) -> None:
    megabytes(Unrolled(), 1)  # warms up allocator and kernels
    for name, make, colour in (
        ("autograd through the loop", Unrolled, style.VERMILION),
        ("adjoint sweep (default)", Adjoint, style.BLUE),
    ):
        axes.plot(STEPS, [megabytes(make(), k) for k in STEPS], "o-", color=colour, label=name)
    axes.set_xlabel("inner steps")
    axes.set_ylim(0)
    axes.set_title("memory of one exact meta-gradient (MB)")
    axes.legend(loc="upper left")


@style.styled
def main() -> None:
    torch.set_num_threads(1)
    drawn = style.figure(9.6, 3.4)
    draw_sine(drawn.add_subplot(1, 2, 1), sine_method())
    draw_memory(drawn.add_subplot(1, 2, 2))
    style.save(drawn, Path(__file__).with_suffix(".png"), dpi=130)


if __name__ == "__main__":
    main()

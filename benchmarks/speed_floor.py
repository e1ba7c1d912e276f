"""The least time that exact MAML needs here: counted operations over the measured matrix rate.

One task with K inner steps needs, in units of one forward and backward pass,

    K (1 + 2) on the support set  +  1 on the query set:

each step one gradient, and one Hessian-vector product. A product differentiates every matrix
product of that gradient once more; the derivative of a product of two factors has two terms, so it
costs two passes. Passes are counted by torch (multiplications and additions of matrix products and
convolutions; all else is free), without the gradient in the input pictures, which nobody needs.
"""

from __future__ import annotations

import time

import torch
from speed_engines import LOSSES
from speed_rows import Row
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from innerloop import Task
from innerloop.core.types import count

SIZES = (512, 1024, 2048)
PRODUCT = 2
"""Passes in one Hessian-vector product."""


def operations(row: Row, model: nn.Module, tasks: Task) -> int:
    """Floating-point operations of one exact meta-gradient over all tasks."""
    support, query = (_passes(row, model, part.x[0], part.y[0]) for part in tasks)
    return count(tasks) * (row.steps * (1 + PRODUCT) * support + query)


def _passes(row: Row, model: nn.Module, x: Tensor, y: Tensor) -> int:
    """Operations of one forward and one backward pass."""
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(LOSSES[row.loss](model(x), y), list(model.parameters()))
    return int(counter.get_total_flops())


def matrix_rate(device: torch.device, seconds: float = 0.5) -> float:
    """The best float32 rate of square matrix products, in operations per second."""
    return max(_rate(size, device, seconds) for size in SIZES)


def _rate(size: int, device: torch.device, seconds: float) -> float:
    a, b = torch.randn(2, size, size, device=device)
    out = torch.empty_like(a)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best

"""DropBlock: dropout of whole squares, since the neighbours of one lost pixel give it away."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropBlock(nn.Module):
    """In training mode, drops squares of `size` x `size` pixels from each map of (n, c, h, w).

    A square starts at a pixel with probability

        gamma = rate / size^2 * (h w) / ((h - size + 1) (w - size + 1)),    rate = reached * drop

    and lies inside the map; what remains is multiplied by entries / entries kept, counted over the
    whole batch. Squares overlap, so slightly less than `rate` is lost. On a map smaller than the
    square, the square is cut to the map's sides. If everything is lost the output is zero.

    `reached` is a buffer in [0, 1], one here, rising in `RampedDropBlock`, saved with weights.
    The squares are drawn from torch's global generator, in float32 whatever the type of x.

    Source: Ghiasi, Lin, Le 2018, algorithm 1 and equation 1; scaling and placement as in the code
    of Lee et al. 2019.
    """

    reached: Tensor

    def __init__(self, drop: float = 0.1, size: int = 5) -> None:
        super().__init__()
        if not 0 <= drop < 1:
            raise ValueError(f"drop is the share of pixels to lose, 0 <= drop < 1, got {drop}")
        if size < 1:
            raise ValueError(f"size is the side of the squares in pixels, at least 1, got {size}")
        self.drop, self.size = drop, size
        self.register_buffer("reached", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop == 0:
            return x
        kept = self._kept(x).to(x.dtype)
        return x * kept * (kept.numel() / kept.sum().clamp(min=1))

    def _kept(self, x: Tensor) -> Tensor:
        """1 where a pixel stays and 0 where a square lies, float32 (n, c, h, w)."""
        n, c, h, w = x.shape
        tall, wide = min(self.size, h), min(self.size, w)
        rows, columns = h - tall + 1, w - wide + 1
        gamma = self.reached * (self.drop / (tall * wide) * (h * w) / (rows * columns))
        # Drawn even at gamma 0: a layer that draws now and then would upset the named streams.
        drawn = torch.rand(n, c, rows, columns, device=x.device, dtype=torch.float32)
        corners = F.pad((drawn < gamma).float(), (wide - 1, wide - 1, tall - 1, tall - 1))
        return 1 - F.max_pool2d(corners, (tall, wide), stride=1)

    def extra_repr(self) -> str:
        return f"drop={self.drop}, size={self.size}"


class RampedDropBlock(DropBlock):
    """A DropBlock whose rate rises from zero to the full one over the first `until` of a training.

    reached = min(1, p / until) at fraction p of the run, which `innerloop.Method.progress` tells.

    Source: code of Lee et al. 2019, where 40 000 calls, two per batch, are a third of the run.
    There the count is kept on the layer, so it also grows during validation, and under
    `DataParallel`, which the released commands for miniImageNet and tieredImageNet use, it is lost
    with the replicas after every call.
    """

    def __init__(self, drop: float = 0.1, size: int = 5, *, until: float = 1 / 3) -> None:
        super().__init__(drop, size)
        if not 0 < until <= 1:
            raise ValueError(f"until is a fraction of the training, 0 < until <= 1, got {until}")
        self.until = until
        self.at_progress(0.0)

    def at_progress(self, fraction: float) -> None:
        """Take the rate that belongs to this fraction of the run."""
        self.reached.fill_(min(1.0, fraction / self.until))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, until={self.until:g}"

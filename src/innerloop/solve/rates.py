"""Inner learning rates: fixed, or learned with the rest of the meta-parameters (sign free)."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable
from numbers import Real

import torch
from torch import Tensor, nn

from ..core import trees
from ..core.rates import Rate
from ..core.types import Params

log = logging.getLogger("innerloop")


class _Same(Rate):
    """A rate that all steps have in common."""

    def key(self, t: int) -> Hashable:
        return None


class Fixed(_Same):
    """The same number everywhere, not learned (MAML's alpha)."""

    def __init__(self, lr: float):
        super().__init__()
        self.lr = _finite(lr)

    def bind(self, shapes: dict[str, torch.Size], steps: int, dtype: torch.dtype) -> None:
        pass

    def at(self, hyper: Params, t: int, name: str) -> float | Tensor:
        return self.lr

    def describe(self) -> str:
        return f"fixed {self.lr:g}"


class Scalar(_Same):
    """One learned number for all tensors and steps."""

    def __init__(self, lr: float):
        super().__init__()
        self.lr = _finite(lr)
        self.value = nn.Parameter(torch.tensor(self.lr))

    def bind(self, shapes: dict[str, torch.Size], steps: int, dtype: torch.dtype) -> None:
        self.value = nn.Parameter(torch.tensor(self.lr, dtype=dtype))

    def at(self, hyper: Params, t: int, name: str) -> float | Tensor:
        return hyper["value"]

    def describe(self) -> str:
        return f"one learned scalar, initially {self.lr:g}"


class _Table(_Same):
    """Learned values kept per adapted tensor, under the tensor's name with `.` as `/`."""

    def __init__(self, lr: float):
        super().__init__()
        self.lr = _finite(lr)
        self.values = nn.ParameterDict()

    def _fill(self, sizes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> None:
        self.values = nn.ParameterDict(
            {
                trees.slot(k): nn.Parameter(torch.full(s, self.lr, dtype=dtype))
                for k, s in sizes.items()
            }
        )


class PerLayer(_Table):
    """One learned number per adapted tensor."""

    def bind(self, shapes: dict[str, torch.Size], steps: int, dtype: torch.dtype) -> None:
        self._fill({k: () for k in shapes}, dtype)

    def at(self, hyper: Params, t: int, name: str) -> float | Tensor:
        return hyper["values." + trees.slot(name)]

    def describe(self) -> str:
        return f"one learned rate per tensor, initially {self.lr:g}"


class PerParameter(_Table):
    """One learned number per weight: phi' = phi - alpha * g, element by element.

    Source: Li et al. 2017 (Meta-SGD), eq. 2.
    """

    def bind(self, shapes: dict[str, torch.Size], steps: int, dtype: torch.dtype) -> None:
        self._fill({k: tuple(s) for k, s in shapes.items()}, dtype)

    def at(self, hyper: Params, t: int, name: str) -> float | Tensor:
        return hyper["values." + trees.slot(name)]

    def describe(self) -> str:
        return f"one learned rate per parameter, initially {self.lr:g}"


class PerLayerPerStep(_Table):
    """One learned number per adapted tensor and inner step (MAML++'s LSLR).

    Steps past the last trained one reuse its rates, and the log says so once.
    Source: Antoniou et al. 2019, section 4.
    """

    def bind(self, shapes: dict[str, torch.Size], steps: int, dtype: torch.dtype) -> None:
        self._fill({k: (max(steps, 1),) for k in shapes}, dtype)
        self._told = False

    def at(self, hyper: Params, t: int, name: str) -> float | Tensor:
        row = hyper["values." + trees.slot(name)]
        if t >= len(row) and not self._told:
            self._told = True
            log.warning(
                "inner step %d was not trained: it reuses the rates of step %d", t + 1, len(row)
            )
        return row[min(t, len(row) - 1)]

    def key(self, t: int) -> Hashable:
        return t

    def describe(self) -> str:
        return f"one learned rate per tensor and step, initially {self.lr:g}"


def as_rate(lr: float | Rate) -> Rate:
    """A number means a fixed rate."""
    return lr if isinstance(lr, Rate) else Fixed(lr)


def _finite(lr: float) -> float:
    if isinstance(lr, bool) or not isinstance(lr, Real) or not math.isfinite(lr):
        raise ValueError(f"expected a finite inner learning rate such as lr=0.01, got {lr!r}")
    return float(lr)

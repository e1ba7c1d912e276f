"""The learned update of Ravi & Larochelle: an LSTM whose cell state is the learner's weights."""

from __future__ import annotations

import math
from collections.abc import Hashable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..core import trees
from ..core.cell import cell_step, cell_weights
from ..core.contract import Optimum, Point, Refusal, View
from ..core.types import Params
from .solver import Solver

DECADES = 10.0
"""p of the preprocessing: logarithms are divided by it, and below e^-p values count linearly."""

STATE = ("h", "c", "forget", "input")
"""Per weight: hidden and cell state of the LSTM (hidden,), and the two gates before the sigmoid."""


class MetaLSTM(Solver):
    """phi' = sigma(f) phi - sigma(i) g, with learned gates f and i for every weight.

    f_t = W_F [h_t, phi_{t-1}, f_{t-1}] + b_F, and i_t likewise with W_I, b_I and i_{t-1}; h_t comes
    from an LSTM with `hidden` units that reads the preprocessed gradient and loss. All weights of
    the learner share these; each has its own state, and its start c_0 is the initialisation, which
    is meta-learned as ever. Weights start in U(-0.01, 0.01), b_F in U(4, 5) and b_I in U(-5, -4):
    at first nothing is forgotten and the rate is about 0.01.

    The paper treats the learner's gradients and losses as constants: that is `FirstOrder()`, which
    keeps what gates, states and c_0 contribute; `Adjoint()` is the exact derivative. Weights go
    through the gates `block` at a time, which bounds the memory beyond the state itself: 2 `hidden`
    + 2 numbers per weight.

    The gates that are fed back are those before the sigmoid, as in the authors' code; the paper's
    equation feeds them back after it. Their LSTM layer has a bias drawn like its weights, as here.

    Source: Ravi & Larochelle 2017, section 3; initial values from their code.
    """

    def __init__(
        self, steps: int, *, hidden: int = 20, block: int = 2**16, tolerance: float | None = None
    ):
        super().__init__(steps, tolerance)
        for name, value in {"hidden": hidden, "block": block}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"expected {name} >= 1, got {name}={value!r}")
        self.hidden = hidden
        self.block = block
        self.lstm = cell_weights(4, hidden, 0.01)
        self.gates = nn.ParameterDict(
            {
                "forget": nn.Parameter(torch.empty(hidden + 2).uniform_(-0.01, 0.01)),
                "input": nn.Parameter(torch.empty(hidden + 2).uniform_(-0.01, 0.01)),
                "forget_bias": nn.Parameter(torch.empty(()).uniform_(4, 5)),
                "input_bias": nn.Parameter(torch.empty(()).uniform_(-5, -4)),
            }
        )

    def _create(self, shapes: dict[str, torch.Size], dtype: torch.dtype) -> None:
        self.to(dtype)

    def init(self, phi: Params) -> Params:
        first = next(iter(phi.values()))
        flat = first.new_zeros(len(first), sum(v[0].numel() for v in phi.values()))
        wide = flat.unsqueeze(-1).expand(*flat.shape, self.hidden)
        return dict(zip(STATE, (wide, wide, flat, flat), strict=True))

    def step(self, hyper: Params, point: Point, view: View) -> Point:
        t, phi, state = point
        grad, losses = view.grad, view.losses
        weights = torch.cat([v.flatten(1) for v in phi.values()], 1)
        slopes = torch.cat([grad[k].flatten(1) for k in phi], 1)
        loss = preprocess(losses).unsqueeze(1)
        columns = [weights, slopes, *(state[k] for k in STATE)]
        size = max(1, self.block // len(weights))
        if weights.shape[1] <= size:
            parts = [self._advance(hyper, loss, *columns)]
        else:
            parts = [
                self._recomputed(hyper, loss, *block)
                for block in zip(*(c.split(size, 1) for c in columns), strict=True)
            ]
        weights, *after = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        sizes = [v[0].numel() for v in phi.values()]
        moved = {
            k: part.reshape(v.shape)
            for (k, v), part in zip(phi.items(), weights.split(sizes, 1), strict=True)
        }
        return Point(t + 1, moved, dict(zip(STATE, after, strict=True)))

    def key(self, t: int) -> Hashable:
        return None

    def refuse(self, view: type) -> Refusal | None:
        if view is Optimum:
            return Refusal(
                "`MetaLSTM`: a learned update rests where it has learned to, not where the "
                "gradient is zero",
                "Use `GradientDescent` or `NewtonCG`",
            )
        return super().refuse(view)

    def _recomputed(self, hyper: Params, loss: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
        """One block whose activations are computed again when they are needed."""
        if not torch.is_grad_enabled():
            return self._advance(hyper, loss, *columns)
        found: tuple[Tensor, ...] = checkpoint(
            self._advance, hyper, loss, *columns, use_reentrant=False, preserve_rng_state=False
        )
        return found

    def _advance(self, hyper: Params, loss: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
        """Weights and states (T, n, ...) of n weights after one step."""
        phi, g, h, c, forget, admit = columns
        lstm = trees.under("lstm.", hyper)
        seen = torch.cat([preprocess(g), loss.expand(*g.shape, 2)], -1)
        h, c = cell_step(lstm, seen, h, c)

        def gate(name: str, before: Tensor) -> Tensor:
            w = hyper["gates." + name]
            direct = w[-2] * phi + w[-1] * before
            return h @ w[:-2] + direct + hyper[f"gates.{name}_bias"]

        forget, admit = gate("forget", forget), gate("input", admit)
        return forget.sigmoid() * phi - admit.sigmoid() * g, h, c, forget, admit

    def describe(self) -> str:
        return self._told(f"LSTM update with {self.hidden} units")


def preprocess(x: Tensor) -> Tensor:
    """(log|x| / p, sign x) where |x| >= e^-p, else (-1, e^p x), p = 10: shape (*x.shape, 2).

    Source: Andrychowicz et al. 2016, appendix A; Ravi & Larochelle 2017, section 3.
    """
    size = x.abs()
    large = size >= math.exp(-DECADES)
    # The branch that is not taken is differentiated as well: log must not see a zero.
    logarithm = torch.where(large, size, 1.0).log() / DECADES
    first = torch.where(large, logarithm, -1.0)
    second = torch.where(large, x.sign(), math.exp(DECADES) * x)
    return torch.stack([first, second], -1)

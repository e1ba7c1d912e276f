"""The multi-class support vector machine of Crammer and Singer on features (MetaOptNet)."""

from __future__ import annotations

from torch import Tensor

from ..core.checks import positive
from ..core.strength import precise
from ..core.types import Params
from .head import Fit, Head, linear
from .quadratic import minimise
from .ridge import ridged


class SVM(Head):
    """w_m = sum_i a_im z_i, where a solves the dual problem of the multi-class SVM without bias:

        minimise  1/2 sum_m a_m^T (Z Z^T + damping I) a_m - sum_i a_{i, y_i}
        subject to  a_im <= c [m = y_i],  sum_m a_im = 0 for every example i.

    `c` bounds what one example may contribute. `damping` makes the problem strictly convex, for
    duplicates and n > d as well, and is part of what is trained; the smaller it is against the
    features' squared length, the nearer to the plain SVM.

    Solved to the end (see `innerloop.heads.quadratic`) and differentiated by the KKT conditions.
    `stats`: `inner_gap`, the duality gap; `inner_iterations`; `inner_converged`, that the gap is
    at or below 1e-14 of the objective.

    The authors run 15 iterations of another solver in training and 3 at test; here every solve runs
    until it has converged.

    Source: Lee et al. 2019, section 3.2 and code (c 0.1, damping 1, no bias); Crammer & Singer
    2001.

    Raises ValueError unless c > 0 and damping > 0.
    """

    def __init__(self, c: float = 0.1, *, damping: float = 1.0):
        super().__init__()
        self.c = positive("c", c)
        self.damping = positive("damping", damping)

    def fit(self, hyper: Params, z: Tensor, targets: Tensor) -> Fit:
        x, member = precise(z), precise(targets).transpose(1, 2)
        kernel = ridged(x @ x.transpose(1, 2), self.damping)
        found = minimise(kernel, member, self.c * member)
        stats = {
            "inner_gap": found.gap.to(z.dtype),
            "inner_iterations": found.iterations.to(z.dtype),
            "inner_converged": found.converged,
        }
        return linear(found.value @ x, False, z, stats)

    def describe(self) -> str:
        return f"multi-class SVM, c {self.c:g}, damping {self.damping:g}"

"""What adaptation changes: the relative change of each layer, and paths seen in a plane."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..core.types import Batch, Params

STATE_BYTES = 64 * 2**20
"""Memory that the states of one long trajectory may take."""

LONGEST, SHORTEST = 2000, 50

LARGEST = 1e100
"""Displacements beyond this count as diverged."""


class Adapting(Protocol):
    """A method whose learner adapts by steps."""

    def trajectory(self, support: Batch, steps: int | None = None) -> list[Params]:
        """phi_0, ..., phi_S, each with leaves (T, ...)."""
        ...


@dataclass(frozen=True)
class LayerChange:
    """Relative change |phi_s - phi_0| / |phi_0| of one layer after each step, mean over tasks.

    `change` is (S+1,); nan where phi_0 is zero (a context vector, say). `parameters` counts the
    layer's adapted numbers per task.
    """

    layer: str
    parameters: int
    change: np.ndarray


def layer_changes(method: Adapting, support: Batch, steps: int | None = None) -> list[LayerChange]:
    """How far each adapted layer moves from the meta-parameters, in the order of the model.

    The Frobenius norms are taken over all tensors of a layer together, so that a bias that starts
    at zero does not divide by zero. Near zero everywhere but in the head means that the features
    are reused. Source: Raghu et al., "Rapid Learning or Feature Reuse?" (ICLR 2020), section 3,
    where the similarity is measured on activations (CCA) instead.
    """
    path = method.trajectory(support, steps)
    layers: dict[str, list[str]] = {}
    for name in path[0]:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return [
        LayerChange(
            layer=layer,
            parameters=sum(path[0][name][0].numel() for name in names),
            change=_relative_change([_flat({n: phi[n] for n in names}) for phi in path]),
        )
        for layer, names in layers.items()
    ]


@dataclass(frozen=True)
class Plane:
    """Parameter space around theta, seen in the plane that shows most of it. theta is the origin.

    `paths` (S+1, T, 2) are theta = phi_0, ..., phi_S of each task; `optima` (T, 2) each task's
    optimum; `share` the part of the squared displacements that lies in the plane; `long_steps` the
    inner steps after which a path counts as its optimum. Tasks whose path or optimum is not finite
    are left out of T, and `diverged` counts them.
    """

    paths: np.ndarray
    optima: np.ndarray
    share: float
    long_steps: int
    diverged: int


def parameter_plane(
    method: Adapting, support: Batch, sample: Batch, steps: int | None = None
) -> Plane:
    """theta, the paths of adaptation to `support`, and the tasks' optima in one plane.

    The optimum of a task is where the method's own inner loop ends after many steps (as many of
    2000 as fit into 64 MiB) on `sample`, a larger sample of the same tasks. The plane is spanned by
    the first two principal directions, through theta, of the displacements phi_S - theta and
    optimum - theta; the two groups are scaled to equal size first, so that short adaptation paths
    count as well.

    Raises: ValueError if the inner loop diverges on all tasks.
    """
    trajectory = method.trajectory(support, steps)
    size = sum(leaf.numel() * leaf.element_size() for leaf in trajectory[0].values())
    states = [_flat(phi) for phi in trajectory]
    long_steps = max(SHORTEST, min(LONGEST, STATE_BYTES // size))
    path = torch.stack(states) - states[0]
    optima = _flat(method.trajectory(sample, long_steps)[-1]) - states[0]
    # Squares of what is larger would not be finite, and neither would be the singular values.
    kept = (torch.cat([path, optima[None]]).abs() < LARGEST).all(2).all(0)
    if not kept.any():
        raise ValueError(
            f"the inner loop diverges on all {len(kept)} tasks within {long_steps} steps: there is "
            "no path to draw. Use a smaller inner rate."
        )
    path, optima = path[:, kept], optima[kept]
    groups = [_unit(path[-1]), _unit(optima)]
    _, _, directions = torch.linalg.svd(torch.cat(groups), full_matrices=False)
    axes = directions[:2]
    seen = torch.cat([path[-1], optima])
    total = float(seen.square().sum())
    share = float((seen @ axes.T).square().sum()) / total if total > 0 else math.nan
    return Plane(
        paths=(path @ axes.T).numpy(),
        optima=(optima @ axes.T).numpy(),
        share=share,
        long_steps=long_steps,
        diverged=int((~kept).sum()),
    )


def _unit(rows: Tensor) -> Tensor:
    norm = rows.norm()
    return rows / norm if norm > 0 else rows


def _flat(phi: Params) -> Tensor:
    """(T, P) on the CPU out of leaves (T, ...)."""
    return torch.cat([leaf.detach().flatten(1).cpu().double() for leaf in phi.values()], 1)


def _relative_change(states: list[Tensor]) -> np.ndarray:
    start = states[0].norm(dim=1)
    moved = torch.stack([(state - states[0]).norm(dim=1) for state in states])
    return np.asarray(torch.where(start > 0, moved / start, torch.nan).mean(1))

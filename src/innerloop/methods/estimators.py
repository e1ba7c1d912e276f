"""Named methods that differ from MAML by how dphi/dtheta is applied to a vector."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ..call.policy import Policy
from ..core.contract import Estimator
from ..estimate import (
    Adjoint,
    ConjugateGradient,
    EvolutionStrategies,
    FirstOrder,
    HessianFree,
    Implicit,
    Reptile,
)
from ..learn import GradientLearner, MiniBatches
from ..method import Method
from ..objective import Loss, Proximal, Query
from ..objective.losses import LossLike
from ..scope import Scope
from ..solve import Adam, GradientDescent, NewtonCG, Rate
from .registry import Chunk, named

__all__ = ["es_maml", "fomaml", "hf_maml", "imaml", "maml", "reptile"]


@named(papers=("finn2017maml",))
def maml(
    model: nn.Module,
    *,
    lr: float | Rate = 0.01,
    steps: int = 5,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
    estimator: Estimator | None = None,
    scope: Scope | None = None,
) -> Method:
    """Learn an initialisation; adapt all weights; differentiate through every step.

    phi_{t+1} = phi_t - lr grad L_support(phi_t),  theta <- theta - beta grad_theta L_query(phi_K).

    `lr` counts for the *mean* support loss. The authors' code sums over classes: their 0.4 on 5-way
    Omniglot is lr=2.0 here, 0.1 on 20-way 2.0, 0.01 on miniImageNet 0.05. There, BatchNorm has no
    scale and its shift is not adapted; here a model's affine parameters adapt like any other (leave
    them out by name, on Conv4 with `scope=Except("body.*.1.*")`). Batch statistics are
    transductive, as theirs.

    Source: Finn et al. 2017, algorithm 1 and appendix A.
    """
    learner = GradientLearner(model, GradientDescent(lr, steps), scope, inner=loss, norm=norm)
    return Method(learner, Query(loss), estimator or Adjoint(), name="maml", chunk=chunk)


@named(papers=("finn2017maml",))
def fomaml(
    model: nn.Module,
    *,
    lr: float | Rate = 0.01,
    steps: int = 5,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """MAML with the inner gradients as constants: theta <- theta - beta grad L_query(phi_K).

    Source: Finn et al. 2017, section 5.2.
    """
    learner = GradientLearner(model, GradientDescent(lr, steps), inner=loss, norm=norm)
    return Method(learner, Query(loss), FirstOrder(), name="fomaml", chunk=chunk)


@named(papers=("nichol2018reptile",))
def reptile(
    model: nn.Module,
    *,
    lr: float = 1e-3,
    steps: int = 5,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
    batch_size: int | None = 10,
    optimizer: Literal["adam", "sgd"] = "adam",
    persistent: bool = True,
) -> Method:
    """Move the initialisation towards adapted weights: theta <- theta + eps mean(phi_K - theta).

    The inner optimiser is Adam with betas (0, 0.999) whose moments persist across tasks, on
    mini-batches of the support set, as in the authors' code; there the tasks of a meta-batch follow
    each other, here they run side by side and the moments are averaged. The query set is not
    trained on. Step with plain SGD: its rate is eps, annealed from 1 to 0 in the paper.

    Source: Nichol et al. 2018, algorithm 2; hyper-parameters of the 5-way Omniglot command.
    """
    if optimizer not in ("adam", "sgd"):
        raise ValueError(f'expected optimizer="adam" or "sgd", got {optimizer!r}')
    solver = (
        Adam(lr, steps, betas=(0.0, 0.999), eps=1e-8, persistent=persistent)
        if optimizer == "adam"
        else GradientDescent(lr, steps)
    )
    learner = GradientLearner(
        model, solver, inner=loss, norm=norm, examples=mini_batches(batch_size)
    )
    return Method(learner, Query(loss), Reptile(), name="reptile", chunk=chunk)


@named(papers=("rajeswaran2019imaml",))
def imaml(
    model: nn.Module,
    *,
    lr: float | Rate = 0.1,
    steps: int = 16,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
    lam: float = 2.0,
    cg_steps: int = 5,
    tolerance: float | None = None,
    cg_tolerance: float | None = None,
    cg_damping: float = 0.0,
    optimizer: Literal["descent", "newton"] = "descent",
) -> Method:
    """Adapt to a minimum near the initialisation; differentiate it by the implicit theorem.

    phi* = argmin L_support(phi) + (lam/2)||phi - theta||^2,
    grad = (I + H/lam)^-1 grad L_query(phi*), by conjugate gradients.

    `tolerance` is the paper's delta (norm of the inner gradient), `cg_tolerance` its delta'.
    `cg_damping` is added to lam in the linear system alone, as the authors' code does (22): where
    the Hessian is not definite at phi, as with ReLU and batch statistics, it keeps the solve
    stable, and turns the result from the implicit gradient towards the first-order one.
    `optimizer="newton"` is the Hessian-free variant: `steps` Newton steps, whose directions take
    `cg_steps` conjugate gradients each and whose lengths are searched for; `lr` is then not used.

    Source: Rajeswaran et al. 2019, algorithms 1-2; Omniglot 5-way hyper-parameters.
    """
    if optimizer not in ("descent", "newton"):
        raise ValueError(f'expected optimizer="descent" or "newton", got {optimizer!r}')
    solver = (
        GradientDescent(lr, steps, tolerance=tolerance)
        if optimizer == "descent"
        else NewtonCG(steps, cg_steps=cg_steps, tolerance=tolerance)
    )
    learner = GradientLearner(model, solver, inner=[loss, Proximal(lam)], norm=norm)
    linear = ConjugateGradient(cg_steps, tolerance=cg_tolerance, damping=cg_damping)
    return Method(learner, Query(loss), Implicit(linear), name="imaml", chunk=chunk)


@named(papers=("fallah2020hfmaml",))
def hf_maml(
    model: nn.Module,
    *,
    lr: float | Rate = 0.01,
    steps: int = 1,
    held: float = 0.5,
    displacement: float | None = None,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """MAML by gradients alone: curvature by finite differences, on held-out support examples.

    Source: Fallah et al. 2020 (HF-MAML; one step).
    """
    learner = GradientLearner(model, GradientDescent(lr, steps), inner=loss, norm=norm)
    estimator = HessianFree(held=held, displacement=displacement)
    return Method(learner, Query(loss), estimator, name="hf_maml", chunk=chunk)


@named(papers=("song2020esmaml",))
def es_maml(
    model: nn.Module,
    *,
    lr: float | Rate = 0.05,
    steps: int = 1,
    sigma: float = 0.1,
    pairs: int = 150,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """MAML by evolution strategies: the meta-gradient from function values after adaptation.

    The adaptation is a gradient step, where the paper's is itself an evolution step. `sigma`,
    `pairs` and `lr` are the authors' defaults for reinforcement learning.

    Source: Song et al. 2020 (ES-MAML), algorithm 2.
    """
    learner = GradientLearner(model, GradientDescent(lr, steps), inner=loss, norm=norm)
    estimator = EvolutionStrategies(sigma=sigma, pairs=pairs)
    return Method(learner, Query(loss), estimator, name="es_maml", chunk=chunk)


def mini_batches(size: int | None) -> MiniBatches | None:
    """Shuffled mini-batches of this size; None for the whole support set at every step."""
    return None if size is None else MiniBatches(size)

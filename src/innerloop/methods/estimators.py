"""The named methods. Each picks a scope, a solver and an estimator; that is all a method is."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ..core.contract import Estimator
from ..estimate import Adjoint, ConjugateGradient, FirstOrder, Implicit, Reptile, Unrolled
from ..learn import GradientLearner, ProtoLearner
from ..method import Method
from ..objective.losses import Loss, LossLike
from ..scope import Except, Only, Scope, last_layer
from ..solve import Adam, GradientDescent, NewtonCG, PerParameter, Proximal, Rate

Chunk = int | Literal["auto"]
Norm = Literal["batch", "support", "running"] | None


def maml(
    model: nn.Module,
    *,
    lr: float | Rate = 0.01,
    steps: int = 5,
    loss: LossLike | Loss = "cross_entropy",
    norm: Norm = None,
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
    learner = GradientLearner(model, GradientDescent(lr, steps), scope, loss=loss, norm=norm)
    return Method("maml", learner, estimator or Adjoint(), chunk=chunk)


def fomaml(
    model: nn.Module,
    *,
    lr: float | Rate = 0.01,
    steps: int = 5,
    loss: LossLike | Loss = "cross_entropy",
    norm: Norm = None,
    chunk: Chunk = "auto",
) -> Method:
    """MAML with the inner gradients as constants: theta <- theta - beta grad L_query(phi_K).

    Source: Finn et al. 2017, section 5.2.
    """
    learner = GradientLearner(model, GradientDescent(lr, steps), loss=loss, norm=norm)
    return Method("fomaml", learner, FirstOrder(), chunk=chunk)


def reptile(
    model: nn.Module,
    *,
    lr: float = 1e-3,
    steps: int = 5,
    loss: LossLike | Loss = "cross_entropy",
    norm: Norm = None,
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
    learner = GradientLearner(model, solver, loss=loss, norm=norm, batch_size=batch_size)
    return Method("reptile", learner, Reptile(), chunk=chunk)


def imaml(
    model: nn.Module,
    *,
    lr: float | Rate = 0.1,
    steps: int = 16,
    loss: LossLike | Loss = "cross_entropy",
    norm: Norm = None,
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
    learner = GradientLearner(model, solver, loss=loss, norm=norm, penalty=Proximal(lam))
    linear = ConjugateGradient(cg_steps, tolerance=cg_tolerance, damping=cg_damping)
    return Method("imaml", learner, Implicit(linear), chunk=chunk)


def anil(
    model: nn.Module,
    *,
    lr: float | Rate = 0.1,
    steps: int = 5,
    loss: LossLike | Loss = "cross_entropy",
    norm: Norm = None,
    chunk: Chunk = "auto",
    head: str | None = None,
) -> Method:
    """Adapt the head only; meta-learn body and head through its steps.

    `head` is a name pattern such as "head.*"; by default the last layer that has parameters.
    Source: Raghu et al. 2020, section 4.
    """
    learner = GradientLearner(
        model, GradientDescent(lr, steps), Only(head or last_layer(model)), loss=loss, norm=norm
    )
    return Method("anil", learner, Adjoint(), chunk=chunk)


def boil(
    model: nn.Module,
    *,
    lr: float | Rate = 0.5,
    steps: int = 1,
    loss: LossLike | Loss = "cross_entropy",
    norm: Norm = None,
    chunk: Chunk = "auto",
    head: str | None = None,
) -> Method:
    """Adapt the body only; the head is meta-learned and fixed within a task.

    `head` as in `anil`. Source: Oh et al. 2021, section 3.
    """
    learner = GradientLearner(
        model, GradientDescent(lr, steps), Except(head or last_layer(model)), loss=loss, norm=norm
    )
    return Method("boil", learner, Adjoint(), chunk=chunk)


def meta_sgd(
    model: nn.Module,
    *,
    lr: float = 0.01,
    steps: int = 1,
    loss: LossLike | Loss = "cross_entropy",
    norm: Norm = None,
    chunk: Chunk = "auto",
) -> Method:
    """Learn the initialisation and one rate per weight: phi = theta - alpha * grad L_support.

    `lr` is the rates' initial value (the paper draws them from [0.005, 0.1]); they are sign free.
    Source: Li et al. 2017, eq. 2 and algorithm 1 (one step).
    """
    learner = GradientLearner(model, GradientDescent(PerParameter(lr), steps), loss=loss, norm=norm)
    return Method("meta_sgd", learner, Adjoint(), chunk=chunk)


def protonet(
    model: nn.Module,
    *,
    norm: Norm = None,
    chunk: Chunk = "auto",
) -> Method:
    """Classify by the nearest class mean of the model's embeddings; nothing is adapted.

    The paper normalises by running averages at test; here `norm` says it: "batch" is transductive,
    "support" is not. Source: Snell et al. 2017, algorithm 1.
    """
    return Method("protonet", ProtoLearner(model, norm=norm), Unrolled(), chunk=chunk)

"""Named methods that differ from MAML by what adapted weights are judged by."""

from __future__ import annotations

from torch import nn

from ..call.policy import Policy
from ..core.checks import fraction
from ..core.contract import Estimator, Objective
from ..estimate import Adjoint, FirstOrderFirst
from ..learn import GradientLearner
from ..method import Method
from ..objective import Bootstrapped, Discriminator, Loss, MultiStep, Query
from ..objective.losses import LossLike
from ..scope import All, Except, PerStep
from ..solve import GradientDescent, PerLayerPerStep, PerParameter, Rate
from .registry import Chunk, named

__all__ = ["bootstrapped", "deml", "maml_plus_plus"]


@named(papers=("antoniou2019mamlpp",))
def maml_plus_plus(
    model: nn.Module,
    *,
    lr: float = 0.1,
    steps: int = 5,
    multi_step_until: float = 0.1,
    lslr: bool = True,
    per_step_norm: bool = True,
    first_order_until: float = 0.0,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """MAML with losses at every step, learned rates and BatchNorm parameters per step.

    min sum_t w_t L_query(phi_t),  phi_{t+1} = phi_t - alpha_{t,layer} grad L_support(phi_t).

    `multi_step_until` is the fraction of the training with the multi-step loss (`MultiStep`; 0:
    never), `lslr` learns a rate per tensor and step from `lr` on, `per_step_norm` gives BatchNorm a
    scale and shift per step (`PerStep`), `first_order_until` is the fraction with first-order
    gradients (`FirstOrderFirst`). The fractions are of the `progress` that comes with each
    call. The outer rate's cosine is `train.schedule`, to `train.lr_end`; the ensemble of the best
    checkpoints is `train.keep_best` and `innerloop evaluate --ensemble`.

    Defaults are those of the released Omniglot configurations, which are never first order; the
    paper switches after half of its epochs. `lr` counts for the mean support loss, as theirs.

    Source: Antoniou, Edwards, Storkey 2019, section 4, and the authors' code.
    """
    fraction("multi_step_until", multi_step_until)
    fraction("first_order_until", first_order_until)
    rate: float | Rate = PerLayerPerStep(lr) if lslr else lr
    scope = PerStep(All()) if per_step_norm else All()
    learner = GradientLearner(model, GradientDescent(rate, steps), scope, inner=loss, norm=norm)
    objective: Objective = Query(loss)
    if multi_step_until:
        objective = MultiStep(objective, until=multi_step_until)
    estimator: Estimator = Adjoint()
    if first_order_until:
        estimator = FirstOrderFirst(estimator, until=first_order_until)
    return Method(learner, objective, estimator, name="maml_plus_plus", chunk=chunk)


@named(papers=("flennerhag2022bootstrapped",))
def bootstrapped(
    model: nn.Module,
    *,
    lr: float | Rate = 0.01,
    steps: int = 5,
    extra: int = 1,
    target_lr: float = 0.1,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """MAML towards a bootstrapped target: phi_K is to predict what `extra` more steps would.

    Source: Flennerhag et al. 2022; the rates are MAML's, see `Bootstrapped`.
    """
    learner = GradientLearner(model, GradientDescent(lr, steps), inner=loss, norm=norm)
    objective = Bootstrapped(loss, extra=extra, target_lr=target_lr)
    return Method(learner, objective, Adjoint(), name="bootstrapped", chunk=chunk)


@named(papers=("zhou2018deml", "li2017metasgd"))
def deml(
    model: nn.Module,
    discriminator: nn.Module,
    *,
    generator: str = "body",
    lam: float = 1.0,
    lr: float | Rate = 0.01,
    steps: int = 1,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """Meta-SGD on concepts: a generator that tasks share, and a small learner that adapts on it.

    `generator` is the part of `model` that gives concepts, all else is the learner: the one is not
    touched in the inner loop, the other adapts with a learned rate per weight (`lr` at first). The
    generator also learns to tell apart the classes of labelled examples by `discriminator`, a
    module from concepts to logits such as `nn.Linear(model.features, classes)`. See
    `Discriminator`, which goes with any other learner. `lam` and `lr` are ours: the paper's values
    are not known.

    Source: Zhou, Wu, Li 2018 (DEML+Meta-SGD).
    """
    rate = PerParameter(lr) if isinstance(lr, int | float) else lr
    scope = Except(f"{generator}.*")
    learner = GradientLearner(model, GradientDescent(rate, steps), scope, inner=loss, norm=norm)
    policy = learner.call.policy if learner.call.normalises else None
    objective = Discriminator(
        Query(loss), discriminator, model, generator=generator, lam=lam, norm=policy
    )
    return Method(learner, objective, Adjoint(), name="deml", chunk=chunk)

"""MAML++: MAML with six changes that make it train steadily, each of which can be left out."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ..call.policy import Policy
from ..core.contract import Estimator
from ..estimate import Adjoint, FirstOrderFirst
from ..learn import GradientLearner, PerStepNorm
from ..method import Method
from ..objective import MultiStep
from ..objective.losses import Loss, LossLike
from ..solve import GradientDescent, PerLayerPerStep, Rate


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
    chunk: int | Literal["auto"] = "auto",
) -> Method:
    """MAML with losses at every step, learned rates and BatchNorm parameters per step.

    min sum_t w_t L_query(phi_t),  phi_{t+1} = phi_t - alpha_{t,layer} grad L_support(phi_t).

    `multi_step_until` is the fraction of the training with the multi-step loss (`MultiStep`; 0:
    never), `lslr` learns a rate per tensor and step from `lr` on, `per_step_norm` gives BatchNorm a
    scale and shift per step (`PerStepNorm`), `first_order_until` is the fraction with first-order
    gradients (`FirstOrderFirst`). The fractions need `Method.progress`, which `innerloop train`
    calls. The outer rate's cosine is `train.schedule`, to `train.lr_end`; the ensemble of the best
    checkpoints is `train.keep_best` and `innerloop evaluate --ensemble`.

    Defaults are those of the released Omniglot configurations, which are never first order; the
    paper switches after half of its epochs. `lr` counts for the mean support loss, as theirs.

    Source: Antoniou, Edwards, Storkey 2019, section 4, and the authors' code.
    """
    for name, value in (
        ("multi_step_until", multi_step_until),
        ("first_order_until", first_order_until),
    ):
        if not 0 <= value <= 1:
            raise ValueError(f"expected a fraction of the training, 0 to 1, got {name}={value!r}")
    rate: float | Rate = PerLayerPerStep(lr) if lslr else lr
    kind = PerStepNorm if per_step_norm else GradientLearner
    learner = kind(
        model,
        GradientDescent(rate, steps),
        loss=loss,
        norm=norm,
        multi_step=MultiStep(until=multi_step_until) if multi_step_until else None,
    )
    estimator: Estimator = Adjoint()
    if first_order_until:
        estimator = FirstOrderFirst(estimator, until=first_order_until)
    return Method("maml_plus_plus", learner, estimator, chunk=chunk)

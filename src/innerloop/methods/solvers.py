"""Named methods that differ from MAML by the step: learned rates, learned and changed updates."""

from __future__ import annotations

from torch import nn

from ..call.policy import Policy
from ..core.contract import Estimator
from ..estimate import Adjoint, FirstOrder
from ..learn import GradientLearner
from ..method import Method
from ..objective import Loss, Query
from ..objective.losses import LossLike
from ..solve import (
    DropGrad,
    GradientDescent,
    MetaCurvature,
    MetaLSTM,
    PerParameter,
    Rate,
    Scalar,
    Sign,
)
from ..solve.transform import Noise
from .estimators import mini_batches
from .registry import Chunk, named

__all__ = ["alpha_maml", "dropgrad", "meta_curvature", "meta_lstm", "meta_sgd", "sign_maml"]


@named(papers=("li2017metasgd",))
def meta_sgd(
    model: nn.Module,
    *,
    lr: float = 0.01,
    steps: int = 1,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """Learn the initialisation and one rate per weight: phi = theta - alpha * grad L_support.

    `lr` is the rates' initial value (the paper draws them from [0.005, 0.1]); they are sign free.
    Source: Li et al. 2017, eq. 2 and algorithm 1 (one step).
    """
    learner = GradientLearner(
        model, GradientDescent(PerParameter(lr), steps), inner=loss, norm=norm
    )
    return Method(learner, Query(loss), Adjoint(), name="meta_sgd", chunk=chunk)


@named(papers=("behl2019alpha",))
def alpha_maml(
    model: nn.Module,
    *,
    lr: float = 0.01,
    steps: int = 1,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """MAML whose inner rate is learned, as Alpha MAML does; `lr` is its first value.

    For the paper's updates of both rates train it with `innerloop.train.hypergradient.AlphaMAML`;
    any other outer optimiser treats the inner rate as one more weight.

    Source: Behl, Baydin, Torr 2019 (Alpha MAML; one step).
    """
    learner = GradientLearner(model, GradientDescent(Scalar(lr), steps), inner=loss, norm=norm)
    return Method(learner, Query(loss), Adjoint(), name="alpha_maml", chunk=chunk)


@named(papers=("ravi2017lstm",))
def meta_lstm(
    model: nn.Module,
    *,
    steps: int = 12,
    hidden: int = 20,
    batch_size: int | None = None,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
    estimator: Estimator | None = None,
) -> Method:
    """Learn the update itself: an LSTM whose cell state is the weights of the model.

    phi' = sigma(f) phi - sigma(i) g with learned gates; see `innerloop.solve.MetaLSTM`. Gradients
    and losses of the model are constants by default, as in the paper; `Adjoint()` differentiates
    them too. `steps` counts epochs of the whole support set: 12 for one shot, 8 for five. For the
    paper's batch normalisation train with norm="batch" and test with norm="support".

    Source: Ravi & Larochelle 2017, section 3, and the authors' code.
    """
    learner = GradientLearner(
        model,
        MetaLSTM(steps, hidden=hidden),
        inner=loss,
        norm=norm,
        examples=mini_batches(batch_size),
    )
    return Method(learner, Query(loss), estimator or FirstOrder(), name="meta_lstm", chunk=chunk)


@named(papers=("tseng2020dropgrad",))
def dropgrad(
    model: nn.Module,
    *,
    lr: float | Rate = 0.01,
    steps: int = 5,
    p: float = 0.1,
    noise: Noise = "gaussian",
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
    estimator: Estimator | None = None,
) -> Method:
    """MAML with noise on the inner gradients while meta-training: phi' = phi - lr n * g.

    The authors' code is first order; pass `estimator=FirstOrder()` for that.
    Source: Tseng et al. 2020 (DropGrad).
    """
    solver = DropGrad(GradientDescent(lr, steps), p, noise=noise)
    learner = GradientLearner(model, solver, inner=loss, norm=norm)
    return Method(learner, Query(loss), estimator or Adjoint(), name="dropgrad", chunk=chunk)


@named(papers=("fan2021signmaml",))
def sign_maml(
    model: nn.Module,
    *,
    lr: float | Rate = 0.0035,
    steps: int = 5,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """MAML with sign steps, phi' = phi - lr sign(g): its meta-gradient is exactly first order.

    Source: Fan, Ram, Liu 2021 (Sign-MAML); rate and steps of their run.
    """
    learner = GradientLearner(model, Sign(GradientDescent(lr, steps)), inner=loss, norm=norm)
    return Method(learner, Query(loss), FirstOrder(), name="sign_maml", chunk=chunk)


@named(papers=("park2019metacurvature",))
def meta_curvature(
    model: nn.Module,
    *,
    lr: float | Rate = 0.01,
    steps: int = 5,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """MAML with learned, Kronecker-factored curvature: phi' = phi - lr M g, M from the identity.

    Source: Park & Oliva 2019 (Meta-Curvature); lr and steps are MAML's.
    """
    solver = MetaCurvature(GradientDescent(lr, steps))
    learner = GradientLearner(model, solver, inner=loss, norm=norm)
    return Method(learner, Query(loss), Adjoint(), name="meta_curvature", chunk=chunk)

"""More named methods: learned updates, changed gradients and starts, contexts, other estimators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from ..call.policy import Policy
from ..core.contract import Estimator
from ..estimate import Adjoint, EvolutionStrategies, FirstOrder, HessianFree
from ..learn import BootstrappedLearner, GradientLearner, PrototypeStart
from ..method import Method
from ..models import Contextual, bias_transformed
from ..objective.losses import Loss, LossLike
from ..scope import All, Context, Zeroed, last_layer
from ..solve import DropGrad, GradientDescent, MetaCurvature, MetaLSTM, Rate, Scalar, Sign
from ..solve.transform import Noise

Chunk = int | Literal["auto"]


def cavia(
    model: nn.Module,
    *,
    context: int = 5,
    layers: Sequence[str] | None = None,
    lr: float | Rate = 1.0,
    steps: int = 1,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
    estimator: Estimator | None = None,
) -> Method:
    """Adapt a context vector only, from zero for every task; the weights are shared by all tasks.

    c_{t+1} = c_t - lr grad_c L_support(c_t, theta), c_0 = 0;  theta learns through c_K(theta).

    `context` numbers enter `layers` of `model` (see `Contextual`): beside the input of the first
    linear layer, or by FiLM in the third block of a convolutional network. The authors use 5 on
    sine waves with one step, and 100 on miniImageNet with two, lr 1.0 on both.

    Source: Zintgraf et al. 2019, section 3, and the authors' code.
    """
    learner = GradientLearner(
        Contextual(model, context, layers=layers),
        GradientDescent(lr, steps),
        Context(),
        loss=loss,
        norm=norm,
    )
    return Method("cavia", learner, estimator or Adjoint(), chunk=chunk)


def bias_transformation(
    model: nn.Module,
    *,
    size: int = 10,
    layers: Sequence[str] | None = None,
    lr: float | Rate = 0.01,
    steps: int = 1,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """MAML on a model whose layers have a learned vector z beside their input: W x + V z + b.

    z is meta-learned and adapted like every weight, and decouples the update of the bias from the
    forward pass; see `innerloop.models.bias_transformed`.

    Source: Finn, Yu, Zhang, Abbeel, Levine 2017 (one-shot visual imitation); size 10 and one step
    (reaching), lr 0.01 (pushing) in their code.
    """
    learner = GradientLearner(
        bias_transformed(model, size, layers=layers),
        GradientDescent(lr, steps),
        loss=loss,
        norm=norm,
    )
    return Method("bias_transformation", learner, Adjoint(), chunk=chunk)


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
    learner = GradientLearner(model, solver, loss=loss, norm=norm)
    return Method("dropgrad", learner, estimator or Adjoint(), chunk=chunk)


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
    learner = GradientLearner(model, Sign(GradientDescent(lr, steps)), loss=loss, norm=norm)
    return Method("sign_maml", learner, FirstOrder(), chunk=chunk)


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
    learner = GradientLearner(model, solver, loss=loss, norm=norm)
    return Method("meta_curvature", learner, Adjoint(), chunk=chunk)


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
    learner = GradientLearner(model, GradientDescent(Scalar(lr), steps), loss=loss, norm=norm)
    return Method("alpha_maml", learner, Adjoint(), chunk=chunk)


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
        model, MetaLSTM(steps, hidden=hidden), loss=loss, norm=norm, batch_size=batch_size
    )
    return Method("meta_lstm", learner, estimator or FirstOrder(), chunk=chunk)


def zeroing(
    model: nn.Module,
    *,
    lr: float | Rate = 0.01,
    steps: int = 5,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
    head: str | None = None,
) -> Method:
    """MAML whose head starts every task from zero (the zeroing trick); `head` as in `anil`.

    Source: Kao et al. 2022.
    """
    scope = Zeroed(All(), head or last_layer(model))
    learner = GradientLearner(model, GradientDescent(lr, steps), scope, loss=loss, norm=norm)
    return Method("zeroing", learner, Adjoint(), chunk=chunk)


def proto_maml(
    model: nn.Module,
    *,
    lr: float = 0.01,
    steps: int = 5,
    head: str = "head",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
    estimator: Estimator | None = None,
) -> Method:
    """MAML whose head starts every task as the task's prototypical classifier.

    w_k = 2 c_k, b_k = -|c_k|^2; first order from there on, as in the paper. `head` is the name of
    the linear layer. Any number of classes.

    Source: Triantafillou et al. 2020 (Meta-Dataset): Proto-MAML.
    """
    learner = PrototypeStart(model, GradientDescent(lr, steps), head=head, norm=norm)
    return Method("proto_maml", learner, estimator or FirstOrder(), chunk=chunk)


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

    Source: Flennerhag et al. 2022; the rates are MAML's, see `BootstrappedLearner`.
    """
    learner = BootstrappedLearner(
        model,
        GradientDescent(lr, steps),
        extra=extra,
        target_lr=target_lr,
        loss=loss,
        norm=norm,
    )
    return Method("bootstrapped", learner, Adjoint(), chunk=chunk)


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
    learner = GradientLearner(model, GradientDescent(lr, steps), loss=loss, norm=norm)
    estimator = HessianFree(held=held, displacement=displacement)
    return Method("hf_maml", learner, estimator, chunk=chunk)


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
    learner = GradientLearner(model, GradientDescent(lr, steps), loss=loss, norm=norm)
    estimator = EvolutionStrategies(sigma=sigma, pairs=pairs)
    return Method("es_maml", learner, estimator, chunk=chunk)

"""Named methods that differ from MAML by what is adapted and where it starts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..call.policy import Policy
from ..core.contract import Estimator
from ..estimate import Adjoint, FirstOrder
from ..learn import GradientLearner
from ..method import Method
from ..models import Contextual, bias_transformed
from ..objective import Loss, Query
from ..objective.losses import LossLike
from ..scope import All, Context, Except, Only, Prototypes, Zeroed, last_layer
from ..solve import GradientDescent, Rate
from .registry import Chunk, named

__all__ = ["anil", "bias_transformation", "boil", "cavia", "proto_maml", "zeroing"]


@named(papers=("raghu2020anil",))
def anil(
    model: nn.Module,
    *,
    lr: float | Rate = 0.1,
    steps: int = 5,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
    head: str | None = None,
) -> Method:
    """Adapt the head only; meta-learn body and head through its steps.

    `head` is a name pattern such as "head.*"; by default the last layer that has parameters.
    Source: Raghu et al. 2020, section 4.
    """
    learner = GradientLearner(
        model, GradientDescent(lr, steps), Only(head or last_layer(model)), inner=loss, norm=norm
    )
    return Method(learner, Query(loss), Adjoint(), name="anil", chunk=chunk)


@named(papers=("oh2021boil",))
def boil(
    model: nn.Module,
    *,
    lr: float | Rate = 0.5,
    steps: int = 1,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
    head: str | None = None,
) -> Method:
    """Adapt the body only; the head is meta-learned and fixed within a task.

    `head` as in `anil`. Source: Oh et al. 2021, section 3.
    """
    learner = GradientLearner(
        model, GradientDescent(lr, steps), Except(head or last_layer(model)), inner=loss, norm=norm
    )
    return Method(learner, Query(loss), Adjoint(), name="boil", chunk=chunk)


@named(papers=("zintgraf2019cavia",))
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
        inner=loss,
        norm=norm,
    )
    return Method(learner, Query(loss), estimator or Adjoint(), name="cavia", chunk=chunk)


@named(papers=("finn2017imitation",))
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
        inner=loss,
        norm=norm,
    )
    return Method(learner, Query(loss), Adjoint(), name="bias_transformation", chunk=chunk)


@named(papers=("kao2022contrastive",))
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
    learner = GradientLearner(model, GradientDescent(lr, steps), scope, inner=loss, norm=norm)
    return Method(learner, Query(loss), Adjoint(), name="zeroing", chunk=chunk)


@named(papers=("triantafillou2020metadataset",))
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
    scope = Prototypes(All(), head)
    learner = GradientLearner(model, GradientDescent(lr, steps), scope, norm=norm)
    return Method(learner, Query(), estimator or FirstOrder(), name="proto_maml", chunk=chunk)

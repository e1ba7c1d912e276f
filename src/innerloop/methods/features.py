"""Named methods on features: a head is solved for, or features are compared; no steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import log_softmax

from ..call.policy import Policy
from ..core.types import Batch
from ..estimate import Unrolled
from ..heads import SVM, Logistic, Ridge
from ..learn import HeadLearner, MatchingLearner, ProtoLearner
from ..method import Method
from ..models import headless
from ..objective import Loss, Query, accuracy, as_loss, per_task
from ..objective.losses import LossLike
from .registry import Chunk, named

__all__ = ["lrd2", "matching", "metaoptnet", "nil", "protonet", "r2d2"]


@named(papers=("bertinetto2019r2d2",), features=True)
def r2d2(
    model: nn.Module,
    *,
    lam: float = 50.0,
    scale: float | None = None,
    loss: LossLike | Loss = "cross_entropy",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """Ridge regression from features to one-hot labels; the features are meta-learned through it.

    W = (X^T X + lam I)^-1 X^T Y,  logits = scale * [f(x) 1] W,  lam and scale meta-learned.

    `lam` and `scale` are initial values; `scale=None` is 10 for classes (the code's Omniglot and
    CIFAR-FS runs; 1e-4 on miniImageNet) and 1 for values. The released commands keep lam fixed. The
    paper trains with more classes than it tests with, any number works, and normalises by running
    averages at test; here `norm` says it.

    Source: Bertinetto et al. 2019, section 3.2, and the authors' code.
    """
    chosen = as_loss(loss)
    targets = chosen.labels
    if targets is None:
        raise ValueError(
            f"a ridge head fits classes or values, and which of them the loss {chosen.name} has is "
            'not known: say it with as_loss(loss, labels="classes") or labels="values"'
        )
    usual = 10.0 if targets == "classes" else 1.0
    scale = usual if scale is None else scale
    learner = HeadLearner(model, Ridge(lam), targets=targets, norm=norm, scale=scale)
    return Method(learner, Query(chosen), Unrolled(), name="r2d2", chunk=chunk)


@named(papers=("bertinetto2019r2d2",), features=True)
def lrd2(
    model: nn.Module,
    *,
    lam: float = 50.0,
    steps: int = 5,
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """Logistic regression on features by a few Newton steps, each class against the rest.

    `lam` is the initial value of a learned strength (50; the code has 1 for two classes), `steps`
    the Newton steps (the paper reports 1 and 5; 10 for two classes).

    Source: Bertinetto et al. 2019, section 3.3, and the authors' code.
    """
    learner = HeadLearner(model, Logistic(lam, steps=steps), norm=norm)
    return Method(learner, Query(), Unrolled(), name="lrd2", chunk=chunk)


@named(papers=("lee2019metaoptnet", "amos2017optnet"), features=True)
def metaoptnet(
    model: nn.Module,
    *,
    head: Literal["svm", "ridge"] = "svm",
    c: float = 0.1,
    lam: float = 50.0,
    label_smoothing: float = 0.0,
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """A convex classifier on features: multi-class SVM, or ridge regression, without bias.

    logits = gamma * W f(x), gamma learned from 1; the gradient is that of the KKT conditions.

    `c` is the SVM's, `lam` the ridge's, neither learned. `label_smoothing` puts that weight on the
    wrong classes together (0.1 for ResNet-12 on miniImageNet). The authors' ridge doubles its
    targets, which is gamma from 2. Their networks are normalised by running averages at test; here
    `norm` says it.

    Source: Lee et al. 2019, section 3.2, and the authors' code.
    """
    if head not in ("svm", "ridge"):
        raise ValueError(f'expected head="svm" or "ridge", got {head!r}')
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"expected label_smoothing in [0, 1), got {label_smoothing!r}")
    solver = SVM(c) if head == "svm" else Ridge(lam, learned=False, intercept=False, average=False)
    loss = as_loss("cross_entropy")
    if label_smoothing:
        name = f"cross_entropy, labels smoothed by {label_smoothing:g}"
        loss = per_task(
            _Smoothed(label_smoothing), name, labels="classes", metric=accuracy(), distance="kl"
        )
    scale = 1.0 if head == "svm" else 2.0
    learner = HeadLearner(model, solver, norm=norm, scale=scale)
    return Method(learner, Query(loss), Unrolled(), name="metaoptnet", chunk=chunk)


@dataclass(frozen=True)
class _Smoothed:
    """Cross-entropy with weight 1 - amount on the right class, `amount` shared by the wrong ones.

    PyTorch's `label_smoothing` shares its amount among all classes, the right one included.
    """

    amount: float

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        classes = outputs.shape[2]
        spread = self.amount * classes / (classes - 1)
        uniform = -log_softmax(outputs, 2).mean((1, 2))
        plain = as_loss("cross_entropy")(outputs, Batch(outputs, y))
        return (1 - spread) * plain + spread * uniform


@named(papers=("snell2017protonet",), features=True)
def protonet(
    model: nn.Module,
    *,
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """Classify by the nearest class mean of the model's embeddings; nothing is adapted.

    The paper normalises by running averages at test; here `norm` says it: "batch" is transductive,
    "support" is not. Source: Snell et al. 2017, algorithm 1.
    """
    learner = ProtoLearner(model, norm=norm)
    return Method(learner, Query(), Unrolled(), name="protonet", chunk=chunk)


@named(papers=("vinyals2016matching",), features=True)
def matching(
    model: nn.Module,
    *,
    reads: int | None = None,
    width: int | None = None,
    temperature: float = 1.0,
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """Classify by attention over the support set: the labels of what a query resembles.

    `model` gives features. `reads=K` embeds support and queries in full context, with K attention
    steps, and `width` is then the number of features. `temperature` divides the cosines; less than
    the paper's 1 learns faster (see `MatchingLearner`).

    Source: Vinyals et al. 2016, section 2.1 and appendix A.
    """
    learner = MatchingLearner(model, reads=reads, width=width, temperature=temperature, norm=norm)
    return Method(learner, Query(), Unrolled(), name="matching", chunk=chunk)


@named(papers=("raghu2020anil",))
def nil(
    model: nn.Module,
    *,
    head: str = "head",
    norm: Policy | None = None,
    chunk: Chunk = "auto",
) -> Method:
    """No inner loop: drop the head `head` and match the features, as `matching` does.

    The weights are those of `model`: after it was trained by `maml` or `anil`, this measures how
    much of the result is due to its features alone.

    Source: Raghu et al. 2020 (NIL).
    """
    learner = MatchingLearner(headless(model, head), norm=norm)
    return Method(learner, Query(), Unrolled(), name="nil", chunk=chunk)

"""The named methods whose head is solved for: the model gives features, nothing is descended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import log_softmax

from ..call.policy import Policy
from ..estimate import Unrolled
from ..heads import SVM, Logistic, Ridge
from ..learn import HeadLearner
from ..method import Method
from ..objective.losses import Loss, LossLike, as_loss, per_task

Chunk = int | Literal["auto"]


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
    usual = 10.0 if chosen.kind == "classification" else 1.0
    learner = HeadLearner(
        model, Ridge(lam), loss=chosen, norm=norm, scale=usual if scale is None else scale
    )
    return Method("r2d2", learner, Unrolled(), chunk=chunk)


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
    return Method("lrd2", learner, Unrolled(), chunk=chunk)


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
        loss = per_task(_Smoothed(label_smoothing), "classification", name)
    scale = 1.0 if head == "svm" else 2.0
    learner = HeadLearner(model, solver, loss=loss, norm=norm, scale=scale)
    return Method("metaoptnet", learner, Unrolled(), chunk=chunk)


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
        return (1 - spread) * as_loss("cross_entropy")(outputs, y) + spread * uniform

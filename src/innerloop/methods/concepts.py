"""DEML: a concept generator that tasks share, taught by the tasks and by a discriminator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from ..call import ModelCall
from ..call.policy import Policy
from ..core import checks, trees
from ..core.contract import Estimator
from ..core.types import Batch, MetaGradient, Params, Task
from ..engine import running
from ..estimate import Adjoint
from ..learn import FeatureLearner, GradientLearner
from ..method import Method
from ..objective.losses import Loss, LossLike, as_loss
from ..scope import Except
from ..solve import GradientDescent, PerParameter, Rate

Chunk = int | Literal["auto"]


class ConceptMethod(Method):
    """A method whose generator G also learns to tell lasting classes apart, by a discriminator D.

        J = E_tasks[ L(phi_K(support), query) ] + lam E_(x, y)[ cross-entropy of D(G(x)) and y ]

    The first term and its gradient are those of the learner and the estimator, any of them. G is
    the part `generator` of the learner's model, "" all of it; both terms have its weights in
    common. D maps G's outputs (n, ...) to logits (n, classes) and is trained by the second term
    only; it takes no part in `adapt`. The labelled examples are normalised by their own batch's
    statistics, or by running averages with norm="running".

    Raises ValueError for a part that the model does not have or that has no parameter, and for
    lam < 0.

    Source: Zhou, Wu, Li 2018 (DEML), the joint objective.
    """

    def __init__(
        self,
        name: str,
        learner: GradientLearner | FeatureLearner,
        estimator: Estimator,
        discriminator: nn.Module,
        *,
        generator: str = "body",
        lam: float = 1.0,
        chunk: Chunk = "auto",
    ) -> None:
        super().__init__(name, learner, estimator, chunk=chunk)
        part = dict(learner.model.named_modules()).get(generator)
        if part is None or next(part.parameters(), None) is None:
            raise ValueError(
                f"expected a part of the model with parameters as the concept generator, got "
                f"{generator!r}; its parts are {', '.join(k for k, _ in _parts(learner.model))}"
            )
        if not 0 <= lam < float("inf"):
            raise ValueError(f"expected lam >= 0, the weight of the discriminator, got {lam!r}")
        self.lam = lam
        self.discriminator = discriminator.to(next(part.parameters()).device)
        both = nn.Sequential(part, self.discriminator)
        policy = learner.call.policy if learner.call.normalises else None
        self._concepts = ModelCall(both, policy)
        own = {id(p): k for k, p in self.named_parameters()}
        self._names = {k: own[id(p)] for k, p in both.named_parameters()}
        self._cross_entropy = as_loss("cross_entropy")

    def auxiliary(self, labelled: Batch) -> Tensor:
        """lam times D's loss on x (N, ...), y (N,): add it to `loss(tasks)` and call `.backward()`.

        Raises ValueError for labels that are not classes of D.
        """
        return self.lam * self._discriminate(dict(self.named_parameters()), labelled)[0]

    def joined(self, found: MetaGradient, labelled: Batch) -> MetaGradient:
        """`found` with the auxiliary term added to loss and gradients.

        `stats` tells its loss, without lam, and D's accuracy, the same for every task.
        """
        params = {k: p.detach().requires_grad_(p.requires_grad) for k, p in self.named_parameters()}
        with torch.inference_mode(False), torch.enable_grad():
            loss, accuracy = self._discriminate(params, labelled)
            grads = trees.gradient(self.lam * loss, params)
        loss, tasks = loss.detach(), len(next(iter(found.stats.values())))
        stats = {"auxiliary_loss": loss.expand(tasks), "auxiliary_accuracy": accuracy.expand(tasks)}
        return replace(
            found,
            loss=found.loss + self.lam * loss,
            grads=trees.add(found.grads, grads),
            stats={**found.stats, **stats},
        )

    def meta_gradient(
        self,
        tasks: Task,
        *,
        labelled: Batch | None = None,
        share: Callable[[MetaGradient], MetaGradient] | None = None,
    ) -> MetaGradient:
        """As `Method.meta_gradient`, of J where labelled examples are given; else D's is zero."""

        def completed(found: MetaGradient) -> MetaGradient:
            zeros = {
                k: torch.zeros_like(p) for k, p in self.named_parameters() if k not in found.grads
            }
            found = replace(found, grads={**found.grads, **zeros})
            found = found if labelled is None else self.joined(found, labelled)
            return share(found) if share else found

        return super().meta_gradient(tasks, share=completed)

    def loss(self, tasks: Task, labelled: Batch | None = None) -> Tensor:
        """As `Method.loss`, of J where labelled examples are given."""
        loss = super().loss(tasks)
        return loss if labelled is None else loss + self.auxiliary(labelled)

    def forward(self, tasks: Task, labelled: Batch | None = None) -> Tensor:
        """The same as `loss`, for wrappers that call the module."""
        return self.loss(tasks, labelled)

    def describe(self) -> dict[str, str]:
        told = super().describe()
        return {**told, "loss": f"{told['loss']} + {self.lam:g} discriminator"}

    def _discriminate(self, params: Params, labelled: Batch) -> tuple[Tensor, Tensor]:
        """D's loss and accuracy, both scalars."""
        x, y = labelled
        if len(x) != len(y) or not len(x) or y.dim() != 1:
            raise ValueError(
                f"expected labelled examples x (N, ...) and classes y (N,), got {tuple(x.shape)} "
                f"and {tuple(y.shape)}"
            )
        weights = {k: params[name] for k, name in self._names.items()}
        checks.dtype(x, next(iter(weights.values())).dtype)
        self._concepts.precision = self.learner.call.precision
        with running(self.learner):
            self._concepts.follow_modes()
            logits = self._concepts(weights, set(), x.unsqueeze(0), "auxiliary", None)
        loss = self._cross_entropy(logits, y.unsqueeze(0)).squeeze(0)
        right = logits.detach().argmax(2).squeeze(0) == y
        return loss, right.to(loss.dtype).mean()


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
) -> ConceptMethod:
    """Meta-SGD on concepts: a generator that tasks share, and a small learner that adapts on it.

    `generator` is the part of `model` that gives concepts, all else is the learner: the one is not
    touched in the inner loop, the other adapts with a learned rate per weight (`lr` at first). The
    generator also learns to tell apart the classes of labelled examples by `discriminator`, a
    module from concepts to logits such as `nn.Linear(model.features, classes)`. See
    `ConceptMethod`, which takes any other learner. `lam` and `lr` are ours: the paper's values are
    not known.

    Source: Zhou, Wu, Li 2018 (DEML+Meta-SGD).
    """
    rate = PerParameter(lr) if isinstance(lr, int | float) else lr
    learner = GradientLearner(
        model, GradientDescent(rate, steps), Except(f"{generator}.*"), loss=loss, norm=norm
    )
    return ConceptMethod(
        "deml", learner, Adjoint(), discriminator, generator=generator, lam=lam, chunk=chunk
    )


def _parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (k, m) for k, m in model.named_modules() if k and next(m.parameters(), None) is not None
    ]

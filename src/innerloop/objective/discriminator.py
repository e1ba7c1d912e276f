"""DEML's concept discriminator: a loss beside the tasks that teaches features lasting classes."""

from __future__ import annotations

from torch import Tensor, nn

from ..call import ModelCall
from ..core import checks, trees
from ..core.contract import Learner, Network, Objective, Refused
from ..core.types import Batch, Params
from .losses import as_loss
from .query import Wrapped


class Discriminator(Wrapped):
    """`objective`, and a discriminator D that makes a part G of the model tell classes apart.

        J = E_tasks[ objective ] + lam E_(x, y)[ cross-entropy of D(G(x)) and y ]

    G is the part `generator` of the learner's model, "" all of it; both terms have its weights in
    common. D maps G's outputs (n, ...) to logits (n, classes) and is trained by the second term
    only; it takes no part in `adapt`. The labelled examples are normalised by their own batch's
    statistics, or by running averages with norm="running".

    Raises ValueError for a part that the model does not have or that has no parameter, and for
    lam < 0.

    Source: Zhou, Wu, Li 2018 (DEML), the joint objective.
    """

    def __init__(
        self,
        objective: Objective,
        discriminator: nn.Module,
        model: nn.Module,
        *,
        generator: str = "body",
        lam: float = 1.0,
        norm: str | None = None,
    ):
        super().__init__(objective)
        part = dict(model.named_modules()).get(generator)
        if part is None or next(part.parameters(), None) is None:
            parts = [
                k for k, m in model.named_modules() if k and next(m.parameters(), None) is not None
            ]
            raise ValueError(
                f"expected a part of the model with parameters as the concept generator, got "
                f"{generator!r}; its parts are {', '.join(parts)}"
            )
        if not 0 <= lam < float("inf"):
            raise ValueError(f"expected lam >= 0, the weight of the discriminator, got {lam!r}")
        self.lam = lam
        self.discriminator = discriminator.to(next(part.parameters()).device)
        both = nn.Sequential(part, self.discriminator)
        self._call = ModelCall(both, norm)
        names = {id(p): f"model.{k}" for k, p in model.named_parameters()}
        names |= {
            id(p): f"objective.discriminator.{k}" for k, p in self.discriminator.named_parameters()
        }
        self._names = {k: names[id(p)] for k, p in both.named_parameters()}
        self._cross_entropy = as_loss("cross_entropy")

    def bind(self, learner: Learner) -> None:
        super().bind(learner)
        known = {k for k, _ in learner.named_parameters()}
        missing = [
            k for k in self._names.values() if not k.startswith("objective.") and k not in known
        ]
        if missing:
            raise Refused(
                f"`Discriminator` was made for another model than `{type(learner).__name__}` "
                f"adapts: {missing[0]} is none of its parameters. Give both the same model."
            )

    def beside(self, learner: Learner, meta: Params, labelled: Batch) -> tuple[Tensor, Params]:
        """lam times D's loss on x (N, ...), y (N,), and its stats: the loss and D's accuracy.

        Raises ValueError for labels that are not classes of D.
        """
        x, y = labelled.x, labelled.y
        if len(x) != len(y) or not len(x) or y.dim() != 1:
            raise ValueError(
                f"expected labelled examples x (N, ...) and classes y (N,), got {tuple(x.shape)} "
                f"and {tuple(y.shape)}"
            )
        weights = {k: meta[name] for k, name in self._names.items()}
        checks.dtype(x, next(iter(weights.values())).dtype)
        logits = self._call(weights, set(), x.unsqueeze(0), "auxiliary", None)
        batch = Batch(x.unsqueeze(0), y.unsqueeze(0))
        loss = self._cross_entropy(logits, batch).squeeze(0)
        accuracy = self._cross_entropy.metric.value(logits.detach(), batch).squeeze(0)
        return self.lam * loss, trees.detach(
            {"auxiliary_loss": loss, "auxiliary_accuracy": accuracy.to(loss.dtype)}
        )

    def wants_labelled(self) -> bool:
        return True

    def calls(self) -> list[Network]:
        return [self._call, *super().calls()]

    def describe(self) -> str:
        return f"{self.objective.describe()} + {self.lam:g} discriminator"

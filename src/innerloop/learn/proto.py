"""Prototypical networks: no inner optimisation, phi is one mean embedding per class."""

from __future__ import annotations

from torch import Tensor, nn

from ..call.model import differentiable_kernels
from ..core.types import Batch, Params
from .features import FeatureLearner, membership


class ProtoLearner(FeatureLearner):
    """logits_c(x) = -||f(x) - mean of f over the support examples of class c||^2.

    The model maps inputs to embeddings (n, d); any number of classes and shots. Every class from 0
    to the largest label of a task must have a support example.

    Source: Snell et al. 2017, eq. 1-2.
    """

    def __init__(self, model: nn.Module, *, norm: str | None = None):
        super().__init__(model, loss="cross_entropy", norm=norm)

    def adapt(self, meta: Params, support: Batch) -> Params:
        embedded = self.features(meta, support.x, None)
        member = membership(support.y).to(embedded.dtype)
        return {"prototypes": member.transpose(1, 2) @ embedded / member.sum(1).unsqueeze(-1)}

    def predict(self, meta: Params, phi: Params, x: Tensor, support: Batch) -> Tensor:
        return distances(self.features(meta, x, support.x), phi["prototypes"])

    def materialise(self, phi: Params, support: Batch) -> nn.Module:
        model = self.call.materialise({}, support.x.squeeze(0))
        return ProtoClassifier(model, phi["prototypes"].squeeze(0)).eval()

    def solver(self) -> str:
        return "class means"


class ProtoClassifier(nn.Module):
    """A model and the class means of one support set: logits for new inputs."""

    prototypes: Tensor

    def __init__(self, model: nn.Module, prototypes: Tensor):
        super().__init__()
        self.model = model
        self.register_buffer("prototypes", prototypes.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        with differentiable_kernels():
            return distances(self.model(x), self.prototypes)


def distances(embedded: Tensor, prototypes: Tensor) -> Tensor:
    """Minus the squared distance of each row (…, n, d) to each prototype (…, N, d): (…, n, N).

    Written out as |a|^2 - 2ab + |b|^2: the root in `torch.cdist` has no second derivative at zero.
    """
    cross = embedded @ prototypes.transpose(-1, -2)
    own = embedded.square().sum(-1, keepdim=True)
    theirs = prototypes.square().sum(-1).unsqueeze(-2)
    return 2 * cross - own - theirs

"""Prototypical networks: no inner optimisation, phi is one mean embedding per class."""

from __future__ import annotations

from torch import Tensor, nn

from ..call import differentiable_kernels
from ..core.classes import membership
from ..core.contract import Point
from ..core.types import Batch, Params, Tree, one_of
from .features import FeatureLearner


class ProtoLearner(FeatureLearner):
    """logits_c(x) = -||f(x) - mean of f over the support examples of class c||^2.

    The model maps inputs to embeddings (n, d); any number of classes and shots. Every class from 0
    to the largest label of a task must have a support example.

    Source: Snell et al. 2017, eq. 1-2.
    """

    def __init__(self, model: nn.Module, *, norm: str | None = None):
        super().__init__(model, norm=norm)

    def adapt(self, meta: Params, support: Batch) -> Point:
        embedded = self.features(meta, support.x, None)
        member = membership(support.y).to(embedded.dtype)
        if support.weight is not None:
            member = member * support.weight.to(member.dtype).unsqueeze(-1)
        means = member.transpose(1, 2) @ embedded / member.sum(1).unsqueeze(-1)
        return Point(0, {"prototypes": means}, {})

    def predict(self, meta: Params, point: Point, x: Tree, support: Batch) -> Tensor:
        return distances(self.features(meta, x, support.x), point.phi["prototypes"])

    def module(self, point: Point, support: Batch) -> nn.Module:
        model = self.call.materialise({}, one_of(support.x))
        return ProtoClassifier(model, point.phi["prototypes"].squeeze(0)).eval()

    def fitted_by(self) -> str:
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

"""Prototypical networks: no inner optimisation, phi is one mean embedding per class."""

from __future__ import annotations

from torch import Tensor, nn

from ..core.contract import Learner, Outcome
from ..core.types import Batch, Params, Task
from .losses import as_loss
from .model_call import ModelCall, differentiable_kernels


class ProtoLearner(Learner):
    """logits_c(x) = -||f(x) - mean of f over the support examples of class c||^2.

    The model maps inputs to embeddings (n, d); any number of classes and shots. Every class from 0
    to the largest label of a task must have a support example.

    Source: Snell et al. 2017, eq. 1-2.
    """

    kind = "classification"

    def __init__(self, model: nn.Module, *, norm: str | None = None):
        super().__init__()
        self.call = ModelCall(model, norm)
        self.model = model
        self.loss = as_loss("cross_entropy")

    def adapt(self, meta: Params, support: Batch) -> Params:
        embedded = self._embed(meta, support.x, None)
        if support.y.is_floating_point() or support.y.dim() != 2 or int(support.y.min()) < 0:
            raise ValueError(
                f"prototypes need class labels 0, 1, 2, ... of shape (T, n), got {support.y.dtype} "
                f"of shape {tuple(support.y.shape)}"
            )
        classes = int(support.y.max()) + 1
        member = nn.functional.one_hot(support.y.long(), classes).to(embedded.dtype)
        counts = member.sum(1)
        if not (counts > 0).all():
            raise ValueError(
                f"a class among 0..{classes - 1} has no support example in some task; label the "
                "classes of each task 0, 1, 2, ... without gaps"
            )
        return {"prototypes": member.transpose(1, 2) @ embedded / counts.unsqueeze(-1)}

    def predict(self, meta: Params, phi: Params, x: Tensor, support: Batch) -> Tensor:
        embedded = self._embed(meta, x, support.x)
        return distances(embedded, phi["prototypes"])

    def outer(self, meta: Params, phi: Params, task: Task) -> Outcome:
        outputs = self.predict(meta, phi, task.query.x, task.support)
        return Outcome(self.loss(outputs, task.query.y), outputs)

    def materialise(self, phi: Params, support: Batch) -> nn.Module:
        model = self.call.materialise({}, support.x.squeeze(0))
        return ProtoClassifier(model, phi["prototypes"].squeeze(0)).eval()

    def describe(self) -> dict[str, str]:
        return {
            "scope": "none",
            "solver": "class means",
            "norm": self.call.policy if self.call.normalises else "none in the model",
            "loss": self.loss.name,
        }

    def _embed(self, meta: Params, x: Tensor, support: Tensor | None) -> Tensor:
        """Weights are shared by all tasks; but each task has its own batch statistics."""
        weights = {k.removeprefix("model."): v for k, v in meta.items()}
        stream = "support" if support is None else "query"
        embedded = self.call(weights, set(), x, stream, support)
        if embedded.dim() != 3:
            raise ValueError(
                f"prototypes need embeddings (n, d), the model gave {tuple(embedded.shape[1:])}; "
                "flatten or pool its outputs"
            )
        return embedded


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

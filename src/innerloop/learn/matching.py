"""Matching networks: a query takes the labels of the support examples that it resembles."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..call import differentiable_kernels
from ..core import trees
from ..core.cell import cell_step, cell_weights
from ..core.checks import positive, whole
from ..core.classes import membership
from ..core.contract import Point
from ..core.types import Batch, Params, Tree, one_of
from .features import FeatureLearner


class MatchingLearner(FeatureLearner):
    """p(k | x) = sum over support examples of class k of softmax_i(cos(f(x), g(x_i)) / tau).

    The outputs are log p, so that cross-entropy is the paper's loss. The model maps inputs to
    features (n, d); any number of classes and shots, every class from 0 to the largest label of a
    task with a support example. Without `reads`, f = g is the model.

    With `reads=K` both are embedded in the context of the whole support set (see `FullContext`);
    then `width` is d, by default the model's `features`.

    Source: Vinyals et al. 2016, eq. 1 and section 2.1, where tau, the `temperature`, is 1. A cosine
    ends at 1, so that p then stays below e^2 / (e^2 + C - 1) for one shot and C classes; the code
    of Chen et al. 2019 (A Closer Look at Few-shot Classification) takes 0.01.

    Raises ValueError unless temperature > 0.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        reads: int | None = None,
        width: int | None = None,
        temperature: float = 1.0,
        norm: str | None = None,
    ):
        super().__init__(model, norm=norm)
        self.temperature = positive("temperature", temperature)
        self.context: FullContext | None = None
        if reads is not None:
            width = width if width is not None else getattr(model, "features", None)
            if not isinstance(width, int):
                raise ValueError(
                    f"full context needs the width of the features, and {type(model).__name__} has "
                    "no `features`: give width=..."
                )
            self.context = FullContext(width, reads).to(next(model.parameters()))

    def adapt(self, meta: Params, support: Batch) -> Point:
        if support.weight is not None:
            raise ValueError(
                "`MatchingLearner` compares queries with all support examples alike; leave out "
                "`weight`, or repeat examples"
            )
        keys = self.features(meta, support.x, None)
        member = membership(support.y).to(keys.dtype)
        if self.context is not None:
            keys = self.context.embed(_context(meta), keys)
        return Point(0, {"keys": keys, "member": member}, {})

    def predict(self, meta: Params, point: Point, x: Tree, support: Batch) -> Tensor:
        phi = point.phi
        found = self.features(meta, x, support.x)
        if self.context is not None:
            found = self.context.attend(_context(meta), found, phi["keys"])
        return matches(found, phi["keys"], phi["member"], self.temperature)

    def module(self, point: Point, support: Batch) -> nn.Module:
        model = self.call.materialise({}, one_of(support.x))
        one = {k: v.squeeze(0) for k, v in point.phi.items()}
        return MatchingClassifier(
            model, self.context, one["keys"], one["member"], self.temperature
        ).eval()

    def fitted_by(self) -> str:
        told = "attention over the support set"
        if self.temperature != 1:
            told += f", temperature {self.temperature:g}"
        return told if self.context is None else f"{told}, full context, {self.context.reads} reads"


class FullContext(nn.Module):
    """Full context embeddings of features g'(x_i) of the support set and f'(x) of a query.

    g(x_i) = forward_i + backward_i + g'(x_i), the hidden states of two LSTMs that read the support
    set in its order and in reverse: predictions depend on that order. f(x) = h_K after K = `reads`
    steps of an LSTM that reads the support set by attention:

        h_k = LSTM(f'(x), [h_{k-1}, r_{k-1}], c_{k-1}) + f'(x),
        r_k = sum_i softmax_i(h_k . g(x_i)) g(x_i).

    h_0 = c_0 = 0, which the paper leaves open, as it does the number of reads.

    Source: Vinyals et al. 2016, appendix A.1 and A.2.
    """

    def __init__(self, width: int, reads: int):
        super().__init__()
        whole("width", width)
        whole("reads", reads)
        self.reads = reads
        bound = 1 / math.sqrt(width)
        self.onward = cell_weights(width, width, bound)
        self.reverse = cell_weights(width, width, bound)
        # The state [h, r] is twice as wide as h; r enters beside the input, which is the same.
        self.query = cell_weights(2 * width, width, bound)

    def embed(self, weights: Params, features: Tensor) -> Tensor:
        """g of the support features (…, n, d), with `weights` in the place of the parameters."""
        onward = _read(trees.under("onward.", weights), features)
        reverse = _read(trees.under("reverse.", weights), features.flip(-2)).flip(-2)
        return onward + reverse + features

    def attend(self, weights: Params, features: Tensor, keys: Tensor) -> Tensor:
        """f of the query features (…, q, d) among the support embeddings `keys` (…, n, d)."""
        cell = trees.under("query.", weights)
        h = c = torch.zeros_like(features)
        for _ in range(self.reads):
            read = (h @ keys.mT).softmax(-1) @ keys
            h, c = cell_step(cell, torch.cat([features, read], -1), h, c)
            h = h + features
        return h


class MatchingClassifier(nn.Module):
    """A model and one support set's embeddings: log-probabilities for new inputs."""

    keys: Tensor
    member: Tensor

    def __init__(
        self,
        model: nn.Module,
        context: FullContext | None,
        keys: Tensor,
        member: Tensor,
        temperature: float = 1.0,
    ):
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.context: FullContext | None = None
        if context is not None:
            with torch.random.fork_rng(devices=[]):  # its weights are overwritten
                self.context = FullContext(keys.shape[-1], context.reads).to(keys)
            self.context.load_state_dict(context.state_dict())
        self.register_buffer("keys", keys.detach().clone())
        self.register_buffer("member", member.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        with differentiable_kernels():
            found = self.model(x)
            if self.context is not None:
                weights: Params = dict(self.context.named_parameters())
                found = self.context.attend(weights, found, self.keys)
            return matches(found, self.keys, self.member, self.temperature)


def matches(found: Tensor, keys: Tensor, member: Tensor, temperature: float) -> Tensor:
    """log p (…, q, C) for queries (…, q, d), support embeddings (…, n, d) and classes (…, n, C)."""
    alike = normalize(found, dim=-1) @ normalize(keys, dim=-1).mT / temperature
    # log(0) keeps an example out of the other classes' sums.
    of_class = alike.unsqueeze(-1) + member.log().unsqueeze(-3)
    return of_class.logsumexp(-2) - alike.logsumexp(-1, keepdim=True)


def _read(cell: Params, features: Tensor) -> Tensor:
    """The hidden states (…, n, d) of an LSTM that reads features (…, n, d) one after another."""
    h = c = torch.zeros_like(features[..., 0, :])
    states = []
    for x in features.unbind(-2):
        h, c = cell_step(cell, x, h, c)
        states.append(h)
    return torch.stack(states, -2)


def _context(meta: Params) -> Params:
    return trees.under("context.", meta)

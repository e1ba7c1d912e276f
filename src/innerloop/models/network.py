"""A network in two named parts, so that scopes can say `body.*` and `head.*`."""

from __future__ import annotations

from torch import Tensor, nn


class Network(nn.Module):
    """`head(body(x))`: features of shape (n, features) from `body`, outputs from `head`.

    `features` is the width of the feature vector. A `head` of None leaves the features as the
    outputs, as metric learners want them.
    """

    def __init__(self, body: nn.Module, head: nn.Module | None, *, features: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Identity() if head is None else head
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

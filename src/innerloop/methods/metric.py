"""Named methods that compare features: nothing is adapted by steps."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ..call.policy import Policy
from ..estimate import Unrolled
from ..learn import MatchingLearner
from ..method import Method
from ..models import headless

Chunk = int | Literal["auto"]


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
    return Method("matching", learner, Unrolled(), chunk=chunk)


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
    return Method("nil", learner, Unrolled(), chunk=chunk)

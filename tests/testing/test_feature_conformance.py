"""The conformance suite on learners without inner steps, and proof that it can fail."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import one_hot

from innerloop.heads import Fit, Head, Ridge
from innerloop.learn import HeadLearner
from innerloop.testing import FeatureCase, check_case, feature_cases
from innerloop.testing.feature_cases import wide


@pytest.mark.parametrize("case", feature_cases(), ids=lambda case: case.name)
def test_conforms(case: FeatureCase) -> None:
    found = check_case(case)
    assert not found.failures()
    assert found.parameters <= 200
    assert not found.exact and found.first_order is None


def test_every_entry_against_central_differences() -> None:
    (case,) = (case for case in feature_cases() if case.name == "wide / SVM")
    found = check_case(case, dense=True)
    assert not found.failures() and found.dense < 1e-7


class Detached(Ridge):
    """Forgets that the weights depend on the features."""

    def fit(self, hyper, z, targets):
        return super().fit(hyper, z.detach(), targets)


class Mixed(Ridge):
    """Divides by a length over all tasks, so that tasks see each other."""

    def fit(self, hyper, z, targets):
        return super().fit(hyper, z / z.norm(), targets)


class Impure(Head):
    """Every call gives other weights."""

    calls = 0

    def fit(self, hyper, z, targets):
        self.calls += 1
        weight = one_hot(targets.argmax(2), targets.shape[2]).to(z).transpose(1, 2) @ z
        return Fit(weight * self.calls, torch.zeros_like(weight[..., 0]), {})

    def describe(self):
        return "impure"


@pytest.mark.parametrize(
    ("head", "word"),
    [(Detached, "dense is off"), (Mixed, "chunk is off"), (Impure, "is off")],
)
def test_broken_heads_are_caught(head: type[Head], word: str) -> None:
    case = FeatureCase("broken", wide, lambda m: HeadLearner(m, head(), scale=1.0))
    assert any(word in failure for failure in check_case(case).failures())

"""R2-D2, LR-D2 and MetaOptNet as settings of a run, and in training through the trainer's eyes."""

from __future__ import annotations

import pytest
import torch

from innerloop import methods
from innerloop.config import METHODS
from innerloop.config.schema import ConfigError
from innerloop.data.source import Spec
from innerloop.data.values.synthetic import Sine
from innerloop.models import mlp
from innerloop.recipes import recipe

NAMES = ("r2d2", "lrd2", "metaoptnet")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_builds_them_on_features(name: str) -> None:
    config = recipe("omniglot-5w1s/maml").override([("method", name), ("model.features", "mean")])
    assert config.method == METHODS[name]()
    method = config.build_method(Spec("classification", (1, 28, 28), 5), 20, "cpu")
    assert method.describe()["method"] == name
    module = method.adapt(torch.randn(5, 1, 28, 28), torch.arange(5))
    assert module.head.in_features == 64 and module.head.out_features == 5


def test_settings_have_their_ranges() -> None:
    with pytest.raises(ConfigError) as error:
        recipe("omniglot-5w1s/maml").override(
            [("method.kind", "metaoptnet"), ("method.c", "0"), ("method.label_smoothing", "2")]
        )
    text = str(error.value)
    assert "method.c: expected a number above 0, got 0" in text
    assert "method.label_smoothing: expected a number at least 0 and below 1, got 2" in text
    config = recipe("omniglot-5w1s/maml").override(
        [("method.kind", "metaoptnet"), ("method.head", "ridge"), ("method.lam", "2")]
    )
    assert (config.method.head, config.method.lam) == ("ridge", 2.0)


def test_r2d2_learns_to_fit_sine_waves() -> None:
    """Ten points of a new wave: better than always saying zero, and than before training."""
    torch.manual_seed(0)
    method = methods.r2d2(mlp(1, None), lam=0.01, loss="mse")
    source = Sine(shot=10, queries=20)
    test = source.sample(torch.Generator().manual_seed(1), 100)

    def error() -> float:
        return float((method.query_outputs(test)[0] - test.query.y).square().mean())

    before = error()
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        optimizer.zero_grad()
        method.loss(source.sample(generator, 16)).backward()
        optimizer.step()
    assert error() < 0.5 * before
    assert error() < 0.3 * float(test.query.y.square().mean())

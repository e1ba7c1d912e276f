"""The recipe of docs/backbones.md for timm's models, on timm if it is there, else on its like."""

import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from innerloop import Batch, Task, check

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backbones.md"


class BatchNormAct2d(nn.BatchNorm2d):
    """Normalisation and activation in one layer, as timm has it."""

    def __init__(self, width):
        super().__init__(width)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class Backbone(nn.Module):
    """What the recipe uses of a timm model: `num_features`, and `num_classes=0` for features."""

    num_features = 6

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=4)
        self.bn1 = BatchNormAct2d(4)
        self.blocks = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), BatchNormAct2d(6))
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Identity()

    def forward_features(self, x):
        return self.norm(self.blocks(self.bn1(self.stem(x))))

    def forward(self, x):
        return self.head(self.forward_features(x).mean((2, 3)))


def create_model(name, *, pretrained=False, num_classes=1000):
    assert num_classes == 0, "the recipe asks for features"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Backbone()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):  # as after pre-training
                layer.running_mean.uniform_(-0.3, 0.3)
                layer.running_var.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def recipe(monkeypatch):
    """The names that the recipe of the page defines."""
    if importlib.util.find_spec("timm"):
        import timm

        real = timm.create_model
        monkeypatch.setattr(
            timm, "create_model", lambda *a, **k: real(*a, **k | {"pretrained": False})
        )
    else:
        stand_in = types.ModuleType("timm")
        stand_in.create_model = create_model
        monkeypatch.setitem(sys.modules, "timm", stand_in)
    text = PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- not run: timm[^\n]*-->\n```python\n(.*?)```", text, re.DOTALL)
    names = {"__name__": "recipe"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_the_recipe_runs_and_adapts(recipe):
    torch.manual_seed(0)
    x, y = torch.randn(2, 10, 3, 64, 64), (torch.arange(10) % 5).expand(2, 10)
    tasks = Task(Batch(x, y), Batch(x + 0.1, y))
    for name in ("head_only", "everything", "metric"):
        found = recipe[name].meta_gradient(tasks)
        assert torch.isfinite(found.loss)
        assert any(grad.abs().max() > 0 for grad in found.grads.values())
    adapted = recipe["head_only"].adapt(x[0], y[0])
    before = recipe["model"].state_dict()
    moved = {k for k, v in adapted.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"head.weight", "head.bias"}  # the averages too are those of pre-training


def test_norms_are_taken_apart_with_the_same_outputs(recipe):
    whole, x = create_model("", num_classes=0), torch.randn(3, 3, 64, 64)
    parts = recipe["plain_norms"](create_model("", num_classes=0))
    assert not any(isinstance(m, BatchNormAct2d) for m in parts.modules())
    for mode in (False, True):
        torch.testing.assert_close(parts.train(mode)(x), whole.train(mode)(x), rtol=0, atol=0)
    found = check(whole, "cross_entropy", (x, torch.tensor([0, 1, 2])))
    assert not found.ok and "BatchNormAct2d" in str(found)

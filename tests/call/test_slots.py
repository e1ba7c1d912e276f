"""Tied tensors and weight normalisation: what torch itself gets wrong must come out right."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from innerloop.call import slots as functional
from innerloop.call.model import ModelCall
from innerloop.call.weight_norm import ComposedWeightNorm


class TwoPaths(nn.Module):
    """One layer under two names; it has a parameter and a buffer."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm1d(3)
        self.second = self.first

    def forward(self, x):
        return self.second(self.first(x).tanh())


class TwoLayers(nn.Module):
    """One weight in two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).tanh())


def test_places_name_every_slot_once():
    assert functional.places(TwoLayers()) == {
        "first.weight": "first.weight",
        "first.bias": "first.bias",
        "second.weight": "first.weight",
        "second.bias": "second.bias",
    }
    names = functional.places(TwoPaths())
    assert set(names) == {f"first.{k}" for k in nn.BatchNorm1d(3).state_dict()}


@pytest.mark.parametrize("kind", [TwoPaths, TwoLayers])
def test_tied_tensors_are_set_everywhere_and_put_back(kind):
    torch.manual_seed(0)
    model, x = kind().double(), torch.randn(5, 3, dtype=torch.float64)
    own = dict(model.named_parameters())
    other = {k: torch.randn_like(v) for k, v in own.items()}
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for k, v in twin.named_parameters():
            v.copy_(other[k])
    found = functional.call(model, functional.places(model), other, (x,))
    torch.testing.assert_close(found, twin(x), rtol=0, atol=0)
    for layer in (model.first, model.second):
        for k, v in layer.named_parameters():
            assert isinstance(v, nn.Parameter) and v is getattr(layer, k)
    assert all(v is own[k] for k, v in model.named_parameters())
    copy.deepcopy(model)


@pytest.mark.parametrize("dim", [0, 1, -1, None])
def test_weight_norm_has_the_second_derivative_of_its_value(dim):
    torch.manual_seed(0)
    layer = parametrizations.weight_norm(nn.Linear(4, 3).double(), dim=dim)
    torch_norm = layer.parametrizations.weight[0]
    g, v = (p.detach() for p in layer.parametrizations.weight.parameters())
    g = (g + 0.1).requires_grad_()
    v = v.requires_grad_()
    ours = ComposedWeightNorm(torch_norm)
    torch.testing.assert_close(ours(g, v), torch_norm(g, v), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(ours, (g, v))
    assert torch.autograd.gradgradcheck(ours, (g, v))


def test_buffers_follow_the_users_model():
    """`.double()` and `.to(device)` replace buffers; the call must not keep the old."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    call = ModelCall(model, "running")
    model.double()
    weights = {k: v.unsqueeze(0) for k, v in model.named_parameters()}
    x = torch.randn(1, 4, 2, dtype=torch.float64)
    outputs = call(weights, set(weights), x, "test", None)
    torch.testing.assert_close(outputs[0], model.eval()(x[0]))

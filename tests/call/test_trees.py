"""Inputs and outputs that are dictionaries, tuples and output objects."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from innerloop.call import trees
from innerloop.call.model import ModelCall
from innerloop.core.types import mapped

T, N = 3, 5


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...]
    cache: Any = None


class Named:
    """No mapping, no data class: only `logits`."""

    def __init__(self, logits: Tensor):
        self.logits = logits


class Reader(nn.Module):
    """Token ids and a mask in, an output object out."""

    def __init__(self, kind: str = "dataclass"):
        super().__init__()
        self.words, self.norm = nn.Embedding(7, 4), nn.BatchNorm1d(4, track_running_stats=False)
        self.head, self.kind = nn.Linear(4, 3), kind

    def forward(self, ids: Tensor, mask: Tensor, gain: Tensor | None = None) -> Any:
        assert not ids.is_floating_point() and mask.dtype == torch.bool
        weight = mask.to(self.head.weight.dtype).unsqueeze(-1)
        h = self.norm((self.words(ids) * weight).sum(1))
        h = h if gain is None else h * gain
        logits = self.head(h.tanh())
        if self.kind == "dataclass":
            return Output(logits, (h, logits))
        if self.kind == "mapping":
            return OrderedDict(logits=logits, cache=object(), none=None)
        return Named(logits) if self.kind == "named" else logits


def inputs(how: str) -> Any:
    torch.manual_seed(1)
    ids, mask = torch.randint(0, 7, (T, N, 4)), torch.rand(T, N, 4) > 0.3
    return {"ids": ids, "mask": mask} if how == "dict" else (ids, mask)


def row(x: Any, i: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return trees.arguments(mapped(lambda v: v[i], x))


@pytest.mark.parametrize("tasks", [1, T])
@pytest.mark.parametrize("kind", ["dataclass", "mapping", "named", "tensor"])
@pytest.mark.parametrize("how", ["dict", "tuple"])
def test_every_leaf_is_batched_over_tasks(how: str, kind: str, tasks: int) -> None:
    torch.manual_seed(0)
    model = Reader(kind).double()
    x = mapped(lambda v: v[:tasks], inputs(how))
    weights = {k: torch.randn(tasks, *v.shape).double() for k, v in model.named_parameters()}
    weights = {k: v.requires_grad_() for k, v in weights.items()}
    outputs = ModelCall(model, None)(weights, set(weights), x, "s", None)
    logits = outputs if kind == "tensor" else outputs["logits"]
    if kind == "mapping":
        assert list(outputs) == ["logits"]
    if kind == "dataclass":
        assert set(outputs) == {"logits", "hidden"} and outputs["hidden"][0].shape == (tasks, N, 4)
    expected = []
    for i in range(tasks):
        args, kwargs = row(x, i)
        found = functional_call(model, {k: v[i] for k, v in weights.items()}, args, kwargs)
        found = found if kind == "tensor" else getattr(found, "logits", None)
        if found is None:
            args, kwargs = row(x, i)
            found = functional_call(model, {k: v[i] for k, v in weights.items()}, args, kwargs)
            found = found["logits"]
        expected.append(found)
    torch.testing.assert_close(logits, torch.stack(expected), rtol=1e-12, atol=1e-12)
    ours, theirs = (
        torch.autograd.grad(F.softplus(v).square().sum(), list(weights.values()))
        for v in (logits, torch.stack(expected))
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_support_set_goes_in_front_of_every_leaf() -> None:
    torch.manual_seed(0)
    model = Reader().double()
    call, x = ModelCall(model, "support"), inputs("dict")
    weights = dict(model.named_parameters())
    query = mapped(lambda v: v[:, :2], x)
    both = call(weights, set(), query, "s", x)
    alone = call(weights, set(), mapped(lambda v: v[:, :1], x), "s", x)
    assert both["logits"].shape == (T, 2, 3) and both["hidden"][0].shape == (T, 2, 4)
    torch.testing.assert_close(both["logits"][:, :1], alone["logits"])
    # The support set itself, normalised by its own statistics.
    itself = call(weights, set(), x, "s", None)
    torch.testing.assert_close(both["logits"], itself["logits"][:, :2])


def test_precision_is_that_of_real_leaves_only() -> None:
    model = Reader()
    call = ModelCall(model, None)
    call.precision = torch.bfloat16
    x = inputs("dict") | {"gain": torch.ones(T, N, 4)}
    outputs = call(dict(model.named_parameters()), set(), x, "s", None)
    assert outputs["logits"].dtype == torch.float32


@pytest.mark.parametrize("norm", ["batch", "support"])
def test_the_module_handed_out_is_called_as_the_users_own(norm: str) -> None:
    torch.manual_seed(0)
    model = Reader().double()
    call, x = ModelCall(model, norm), mapped(lambda v: v[0], inputs("dict"))
    weights = {k: torch.randn_like(v) for k, v in model.named_parameters()}
    module = call.materialise(weights, x)
    many = mapped(lambda v: v[None], x)
    expected = call(weights, set(), many, "s", many)["logits"][0]
    torch.testing.assert_close(module(**x).logits, expected)


def test_what_is_no_tree_of_tensors_is_refused() -> None:
    model = Reader()
    call, x = ModelCall(model, None), inputs("dict")
    weights = dict(model.named_parameters())
    for bad, words in (
        (x | {"gain": None}, "leave out entries that are None"),
        (x | {"mask": x["mask"][:, :2]}, "the same axes in front"),
        ({}, "a dict, tuple or list of tensors"),
    ):
        with pytest.raises(ValueError, match=words):
            call(weights, set(), bad, "s", None)
    model.forward = lambda ids, mask: "text"  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"must return a tensor.*gave str"):
        call(weights, set(), x, "s", None)

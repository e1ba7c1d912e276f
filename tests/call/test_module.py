"""The user's own module is called: what it refers to, what becomes of it, how it changes."""

from __future__ import annotations

import copy
import pickle
import threading
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from innerloop import methods
from innerloop.call.model import ModelCall

from .loops import T, classes, equal, plain, same


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


class Closing(nn.Module):
    """Functions that hold on to the module in the ways that Python knows."""

    def __init__(self, how: str):
        super().__init__()
        self.net, self.s = net(), nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        if how == "closure":
            self.act = lambda h: torch.tanh(self.s * h)
        elif how == "default":
            self.act = lambda h, me=self: torch.tanh(me.s * h)
        elif how == "partial":
            self.act = partial(lambda me, h: torch.tanh(me.s * h), self)
        elif how == "table":
            self.table = {"act": [lambda h: torch.tanh(self.s * h)]}
            self.act = lambda h: self.table["act"][0](h)
        elif how == "hook":
            self.act = nn.Identity()
            self.act.register_forward_hook(lambda layer, args, h: torch.tanh(self.s * h))
        else:
            self.act = self.method

    def method(self, h: Tensor) -> Tensor:
        return torch.tanh(self.s * h)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.net(x))


HOW = ["closure", "default", "partial", "table", "hook", "method"]


@pytest.mark.parametrize("chunk", [1, T])
@pytest.mark.parametrize("how", HOW)
def test_functions_that_close_over_the_module_follow(how: str, chunk: int) -> None:
    model = Closing(how)
    equal(model, classes(), plain(model, classes()), chunk=chunk)


@pytest.mark.parametrize("how", HOW)
def test_and_so_do_those_of_the_module_that_is_handed_out(how: str) -> None:
    model, task = Closing(how), classes(1)
    method = methods.maml(model, lr=0.4, steps=3)
    adapted = method.adapt(task.support.x[0], task.support.y[0])
    expected = method.query_outputs(task)[-1, 0]
    with torch.no_grad():
        model.s.fill_(9.0)  # the original goes its own way
        torch.testing.assert_close(adapted(task.query.x[0]), expected, rtol=1e-12, atol=1e-12)
        adapted.s.fill_(0.0)
        assert not adapted(task.query.x[0]).any()


def test_a_tensor_held_beside_its_place_is_refused_by_name() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, s = net(), nn.Parameter(torch.ones((), dtype=torch.float64))
            self.s, self.act = s, lambda h: s * h

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.net(x))

    class Listed(Beside):
        def forward(self, x: Tensor) -> Tensor:
            return self.held[0] * self.net(x)

    listed = Listed()
    listed.held = [listed.s]
    for model in (Beside(), listed):
        with pytest.raises(ValueError, match="reads its parameter `s` from elsewhere"):
            methods.maml(model).meta_gradient(classes())


def test_outputs_of_another_module_are_refused() -> None:
    other, model = net(), net()
    model.forward = other.forward
    with pytest.raises(ValueError, match="depend on none of its parameters"):
        methods.maml(model).meta_gradient(classes())


class Warm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.tau = net(), 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) / self.tau


def replace_activation(model: Warm) -> None:
    model.net[1] = nn.Sigmoid()


CHANGES = {
    "attribute": lambda model: setattr(model, "tau", 0.2),
    "forward": lambda model: setattr(model, "forward", lambda x: model.net(x).sin()),
    "hook": lambda model: model.net[0].register_forward_hook(lambda layer, args, h: h + h.sin()),
    "layer": replace_activation,
    "function": lambda model: setattr(model.net[1], "forward", torch.sigmoid),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_after_building_are_seen(change: str) -> None:
    model, task = Warm(), classes()
    method = methods.maml(model, lr=0.4, steps=3)
    before = method.meta_gradient(task)
    CHANGES[change](model)
    same(method.meta_gradient(task).grads, plain(model, task))
    outputs = method.query_outputs(task)[-1, 0]
    adapted = method.adapt(task.support.x[0], task.support.y[0])
    torch.testing.assert_close(adapted(task.query.x[0]).detach(), outputs)
    assert not torch.equal(before.loss, method.meta_gradient(task).loss)


def test_the_probability_of_dropout_after_building() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.0), nn.Linear(5, 3)).double()
    method = methods.maml(model)
    losses = []
    for p in (0.0, 0.9, 0.0):
        model[1].p = p
        torch.manual_seed(0)
        losses.append(method.meta_gradient(classes()).loss)
    assert torch.equal(losses[0], losses[2]) and not torch.equal(losses[0], losses[1])


def new_head(model: nn.Sequential) -> None:
    model[2] = nn.Linear(5, 3).double()


def more(model: nn.Sequential) -> None:
    model.append(nn.Linear(3, 3).double())


def tie(model: nn.Sequential) -> None:
    model[2].bias = model[0].bias


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (new_head, "layer `2` of Sequential was replaced"),
        (more, r"none gone, 3.weight, 3.bias new"),
        (lambda m: prune.l1_unstructured(m[0], "weight", 0.3), "0.weight gone, 0.weight_orig new"),
        (tie, "2.bias gone"),
    ],
)
def test_parameters_that_come_or_go_are_refused_by_name(change, words: str) -> None:
    model, task = net(), classes()
    method = methods.maml(model)
    method.meta_gradient(task)
    change(model)
    for _ in range(2):
        with pytest.raises(ValueError, match=words):
            method.meta_gradient(task)


def test_pruned_beforehand() -> None:
    model = net()
    prune.l1_unstructured(model[0], "weight", 0.3)
    equal(model, classes(), plain(model, classes()))
    method = methods.maml(model, lr=0.4)
    adapted = method.adapt(classes().support.x[0], classes().support.y[0])
    outputs = method.query_outputs(classes())[-1, 0]
    torch.testing.assert_close(adapted(classes().query.x[0]), outputs)


@pytest.mark.parametrize("chunk", [1, T])
def test_layers_keep_their_class(chunk: int) -> None:
    class Typed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3, track_running_stats=False)
            self.head = parametrizations.weight_norm(nn.Linear(6, 3))

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x[:, None])
            h = torch.tanh(h) if type(self.conv) is nn.Conv1d else h
            h = self.norm(h) if type(self.norm) is nn.BatchNorm1d else h
            chain = self.head.parametrizations.weight[0]
            known = type(chain).__name__ == "_WeightNorm"
            return self.head(h.flatten(1) if known else 2 * h.flatten(1))

    def by_hand(phi: dict[str, Tensor], x: Tensor) -> Tensor:
        h = F.conv1d(x[:, None], phi["conv.weight"], phi["conv.bias"]).tanh()
        h = F.batch_norm(h, None, None, phi["norm.weight"], phi["norm.bias"], training=True)
        g, v = (phi[f"head.parametrizations.weight.original{i}"] for i in (0, 1))
        return F.linear(h.flatten(1), v * (g / v.norm(dim=1, keepdim=True)), phi["head.bias"])

    model = Typed().double()
    equal(model, classes(), plain(model, classes(), call=by_hand), chunk=chunk)


class Busy(nn.Module):
    """Writes to whatever it can reach."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.net, self.norm = net(), nn.BatchNorm1d(3).double()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.kept, self.fails, self.lock = None, fails, threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            self.count += 1
            self.kept = self.net(x)
            self.net[1].seen = self.kept
            self.register_buffer("late", self.kept.detach().sum())
            self.net.eval()
        if self.fails:
            raise RuntimeError("no more")
        return self.norm(self.kept)


def state(model: nn.Module) -> list[object]:
    told: list[object] = []
    for name, module in model.named_modules():
        told.append(name)
        told += [(k, id(v)) for k, v in module.__dict__.items()]
        for table in (module._parameters, module._buffers, module._modules):
            told += [(k, id(v)) for k, v in table.items()]
    return told


@pytest.mark.parametrize("norm", ["batch", "support", "running"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool, norm: str) -> None:
    model, task = Busy(fails), classes()
    was, values = state(model), copy.deepcopy(model.state_dict())
    method = methods.maml(model, norm=norm)
    for work in (
        lambda: method.meta_gradient(task),
        lambda: method.query_outputs(task),
        lambda: method.adapt(task.support.x[0], task.support.y[0]),
    ):
        if fails:
            with pytest.raises(RuntimeError, match="no more"):
                work()
        else:
            work()
        assert state(model) == was
        assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())


def test_what_cannot_be_copied_is_shared() -> None:
    class Kept(Busy):
        def __init__(self) -> None:
            super().__init__()
            self.open = {"file": (n for n in range(3)), "x": 1.0}
            self.last = self.net(torch.ones(1, 4, dtype=torch.float64))

    model = Kept()
    task = classes()
    adapted = methods.maml(model).adapt(task.support.x[0], task.support.y[0])
    assert adapted.open is model.open and adapted.lock is model.lock
    assert adapted.last.grad_fn is None and adapted.net is not model.net


def test_what_refers_to_the_original_by_a_global_name_is_not_handed_out() -> None:
    global ELSEWHERE
    model = ELSEWHERE = Warm()
    model.forward = _by_global_name
    method, task = methods.maml(model), classes()
    assert method.meta_gradient(task).loss.isfinite()
    with pytest.raises(ValueError, match="by a global name"):
        method.adapt(task.support.x[0], task.support.y[0])


def _by_global_name(x: Tensor) -> Tensor:
    return ELSEWHERE.net(x)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_a_method_call_their_own_model(again) -> None:
    method, task = methods.maml(net(), lr=0.4), classes()
    before = method.meta_gradient(task)
    twin = again(method)
    with torch.no_grad():
        for p in method.parameters():
            p.zero_()
    found = twin.meta_gradient(task)
    assert all(torch.equal(g, before.grads[k]) for k, g in found.grads.items())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.jit.script(net()), "is a script"),
        (lambda: nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(4, 3))), "old spectral_norm"),
        (lambda: nn.Sequential(nn.Embedding(6, 3, max_norm=1.0)), "max_norm"),
    ],
)
def test_layers_that_no_call_can_follow_are_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call = ModelCall(make(), None)
        weights = dict(call._model.named_parameters())
        call(weights, set(), torch.zeros(1, 2, 2, dtype=torch.long), "s", None)


def test_a_record_follows_attributes_as_well() -> None:
    model, task = Warm(), classes()
    method = methods.maml(model, lr=0.4, steps=2).use("traced")
    for tau in (1.0, 0.2, 1.0):
        model.tau = tau
        same(method.meta_gradient(task).grads, plain(model, task, steps=2))


def test_one_normalisation_layer_by_itself() -> None:
    """`norm="support"` stands in for its forward, so it may be the whole model."""
    torch.manual_seed(0)
    model = nn.BatchNorm1d(4).double()
    call = ModelCall(model, "support")
    x = classes().support.x
    found = call(dict(model.named_parameters()), set(), x[:, :2], "s", x)
    mean, std = x.mean(1, keepdim=True), (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(found.detach(), ((x - mean) / std)[:, :2])

"""Care by operation: transforms, padding rows, generators, buffers, third derivatives."""

from __future__ import annotations

import logging
import random
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from innerloop import Batch, Task, methods

from .loops import N, T, classes, equal, plain, same, tokens


class Frames(nn.Module):
    """A convolutional network under a function transform."""

    def __init__(self, how: str):
        super().__init__()
        norm = nn.BatchNorm1d(3, track_running_stats=False)
        self.net = nn.Sequential(
            nn.Conv1d(1, 3, 2), norm, nn.Tanh(), nn.Flatten(), nn.Linear(9, 3)
        ).double()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        if self.how == "vmap":
            both = torch.stack([x, x.flip(2)])
            return torch.vmap(self.net)(both).sum(0)
        if self.how == "jvp":
            return sum(torch.func.jvp(self.net, (x,), (x.cos(),)))
        return torch.func.grad(lambda v: self.net(v).square().sum())(x).squeeze(1)[:, :3]


@pytest.mark.parametrize("chunk", ["auto", T])
@pytest.mark.parametrize("how", ["vmap", "jvp", "grad"])
def test_closed_forms_give_way_to_function_transforms(how: str, chunk: int | str) -> None:
    torch.manual_seed(0)
    model, task = Frames(how), classes()
    expected = plain(model, task, steps=2)
    equal(model, task, expected, steps=2, chunk=chunk)
    method = methods.maml(model, lr=0.4, steps=2)
    adapted = method.adapt(task.support.x[0], task.support.y[0])
    torch.testing.assert_close(adapted(task.query.x[0]).detach(), method.query_outputs(task)[-1, 0])


@pytest.mark.parametrize("chunk", ["auto", T])
def test_a_forward_pass_that_differentiates_itself(chunk: int | str) -> None:
    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            norm = nn.BatchNorm1d(3, track_running_stats=False)
            self.net = nn.Sequential(nn.Conv1d(1, 3, 2), norm, nn.Tanh()).double()

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x if x.requires_grad else x.detach().requires_grad_()
                y = self.net(x[:, None]).square().sum()
                return torch.autograd.grad(y, x, create_graph=True)[0][:, :3]

    torch.manual_seed(0)
    model = Slope()
    equal(model, classes(), plain(model, classes(), steps=2), steps=2, chunk=chunk)


class Words(nn.Module):
    def __init__(self, how: str):
        super().__init__()
        self.table, self.how = nn.Parameter(torch.randn(6, 3).double()), how
        self.layer = nn.Embedding(6, 3).double()
        if how == "set later":
            self.layer.padding_idx = 1

    def forward(self, x: Tensor) -> Tensor:
        padding = {"functional": 0, "negative": -6}.get(self.how)
        return (F.embedding(x, self.table, padding_idx=padding) + self.layer(x)).mean(1)


@pytest.mark.parametrize("chunk", [1, T])
@pytest.mark.parametrize("how", ["functional", "negative", "set later"])
def test_padding_rows_keep_still_whatever_reads_them(how: str, chunk: int) -> None:
    torch.manual_seed(0)
    model = Words(how)
    equal(model, tokens(), plain(model, tokens()), chunk=chunk)


class Drawing(nn.Module):
    """Noise from outside of torch's global generator."""

    def __init__(self, how: str):
        super().__init__()
        self.net, self.how = nn.Linear(4, 3).double(), how
        self.own = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "numpy":
            noise = torch.from_numpy(np.random.rand(4))
        elif self.how == "python":
            noise = torch.tensor([random.random() for _ in range(4)], dtype=torch.float64)
        else:
            noise = torch.rand(4, generator=self.own, dtype=torch.float64)
        return self.net(x * noise)


@pytest.mark.parametrize("how", ["numpy", "python", "own"])
def test_numbers_from_elsewhere_are_replayed(how: str) -> None:
    """The sweep evaluates each inner gradient again: with other noise it would be another one."""
    torch.manual_seed(0)
    model, grads = Drawing(how), []
    states = random.getstate(), np.random.get_state()[1].tolist(), model.own.get_state().tolist()
    for method in (methods.maml, partial(methods.maml, chunk=1)):
        torch.manual_seed(5)
        grads.append(method(model, lr=0.4, steps=3).meta_gradient(classes()).grads)
    for k, g in grads[0].items():
        torch.testing.assert_close(g, grads[1][k], rtol=1e-10, atol=1e-12)
    assert states == (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        model.own.get_state().tolist(),
    )
    torch.manual_seed(6)
    other = methods.maml(model, lr=0.4, steps=3).meta_gradient(classes()).grads
    assert any(not torch.allclose(g, other[k]) for k, g in grads[0].items())
    finite = difference(model)
    torch.testing.assert_close(finite, derivative(model), rtol=1e-6, atol=1e-8)


def derivative(model: Drawing) -> Tensor:
    torch.manual_seed(5)
    found = methods.maml(model, lr=0.4, steps=3).meta_gradient(classes())
    return found.grads["learner.model.net.bias"][0]


def difference(model: Drawing, step: float = 1e-5) -> Tensor:
    """Of the meta-loss, in the first bias."""
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            model.net.bias[0] += sign * step
        torch.manual_seed(5)
        losses.append(methods.maml(model, lr=0.4, steps=3).meta_gradient(classes()).loss)
        with torch.no_grad():
            model.net.bias[0] -= sign * step
    return (losses[0] - losses[1]) / (2 * step)


def test_numbers_that_cannot_be_replayed_are_refused() -> None:
    model = Drawing("own")
    hidden = np.random.default_rng(0)
    model.forward = lambda x: model.net(x * torch.from_numpy(hidden.random(4)))
    with pytest.raises(ValueError, match="something else when it is called a second time"):
        methods.maml(model).meta_gradient(classes())


@pytest.mark.parametrize("chunk", [1, T])
@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.Linear(4, 3, bias=False)])
def test_spectral_norm_divides_by_the_largest_singular_value(layer, chunk: int) -> None:
    torch.manual_seed(0)
    layer = layer.double()
    model = nn.Sequential(parametrizations.spectral_norm(layer))
    name = "0.parametrizations.weight.original"

    def by_hand(phi: dict[str, Tensor], x: Tensor) -> Tensor:
        weight = phi[name]
        # The root of the largest eigenvalue, not a singular value decomposition.
        largest = torch.linalg.eigvalsh(weight @ weight.mT)[-1].sqrt()
        return F.linear(x, weight / largest, phi.get("0.bias"))

    equal(model, classes(), plain(model, classes(), call=by_hand), chunk=chunk)
    method = methods.maml(model, lr=0.4)
    adapted = method.adapt(classes().support.x[0], classes().support.y[0])
    torch.testing.assert_close(
        adapted(classes().query.x[0]).detach(), method.query_outputs(classes())[-1, 0]
    )
    assert abs(float(torch.linalg.matrix_norm(adapted[0].weight.detach(), 2)) - 1) < 1e-12


def test_spectral_norm_stays_one_through_training() -> None:
    torch.manual_seed(0)
    layer = parametrizations.spectral_norm(nn.Linear(4, 3).double())
    model = nn.Sequential(layer, nn.Linear(3, 3).double())
    method = methods.maml(model, lr=0.1)
    optimiser = torch.optim.SGD(method.parameters(), 0.5)
    for _ in range(20):
        optimiser.zero_grad()
        method.loss(classes()).backward()
        optimiser.step()
    adapted = method.adapt(classes().support.x[0], classes().support.y[0])
    assert abs(float(torch.linalg.matrix_norm(adapted[0].weight.detach(), 2)) - 1) < 1e-12


def test_buffers_that_forward_writes_are_named_and_start_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Running(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 3).double()
            self.register_buffer("mean", torch.zeros(4, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            self.mean.mul_(1.0)
            return self.net(x - self.mean)

    class Inside(Running):
        def forward(self, x: Tensor) -> Tensor:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
            return self.net(x - self.mean)

    for model, told in ((Running(), 0), (Inside(), 1)):
        with caplog.at_level(logging.WARNING, "innerloop"):
            caplog.clear()
            method = methods.maml(model, lr=0.4, steps=3, chunk=1)
            found = [method.meta_gradient(classes()).grads for _ in range(2)]

        def fresh(phi: dict[str, Tensor], x: Tensor, model: nn.Module = model) -> Tensor:
            return functional_call(model, phi | {"mean": torch.zeros(4).double()}, (x,))

        expected = plain(model, classes(), call=fresh)
        for grads in found:
            same(grads, expected)
        assert not model.mean.any()
        assert sum("writes to the buffers mean" in r.message for r in caplog.records) == told


def test_writing_into_what_is_no_buffer_is_refused() -> None:
    class Hidden(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)
            self.seen = torch.zeros(())

        def forward(self, x: Tensor) -> Tensor:
            self.seen.add_(1)
            return super().forward(x)

    with pytest.raises(ValueError, match=r"Hidden\.seen, which is no buffer"):
        methods.maml(Hidden().double()).meta_gradient(classes())


def test_an_error_of_the_model_is_its_own() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(5, 3)).double()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        methods.maml(model).meta_gradient(tokens())
    whole = nn.Sequential(nn.Linear(4, 3)).double()
    with pytest.raises(ValueError, match=r"x is torch\.int64.*Convert with"):
        methods.maml(whole).meta_gradient(tokens())


BATCHNORM = {
    "plain": lambda: nn.BatchNorm1d(5),
    "untracked": lambda: nn.BatchNorm1d(5, track_running_stats=False),
    "no affine": lambda: nn.BatchNorm1d(5, affine=False),
}


@pytest.mark.parametrize("norm", ["batch", "support", "running"])
@pytest.mark.parametrize("kind", BATCHNORM)
def test_the_adapted_state_dict_loads_into_the_users_own_network(kind: str, norm: str) -> None:
    def build() -> nn.Module:
        layers = (nn.Linear(4, 5), BATCHNORM[kind](), nn.Tanh(), nn.Linear(5, 3))
        return nn.Sequential(*layers).double()

    if kind == "untracked" and norm == "running":
        return
    torch.manual_seed(0)
    task = classes()
    support, query = (Batch(*(v[:1] for v in batch[:2])) for batch in task)
    method = methods.maml(build(), lr=0.4, steps=3, norm=norm)
    adapted = method.adapt(support.x[0], support.y[0])
    outputs = method.query_outputs(Task(support, query))[-1, 0]
    own = build()
    own.load_state_dict(adapted.state_dict(), strict=True)
    for _ in range(2):
        torch.testing.assert_close(adapted(query.x[0]).detach(), outputs)
    if norm == "batch":
        torch.testing.assert_close(adapted.train()(query.x[0]).detach(), outputs)
        torch.testing.assert_close(own.train()(query.x[0]).detach(), outputs)
        own.load_state_dict(adapted.state_dict())
    elif kind != "untracked":
        torch.testing.assert_close(own.eval()(query.x[0]).detach(), outputs)
    if norm == "batch" and kind != "untracked":
        weights = {k: v.detach() for k, v in adapted.named_parameters()}
        theirs = methods.maml(build(), norm="support").learner.call
        expected = theirs(weights, set(), query.x, "query", support.x)[0]
        torch.testing.assert_close(own.eval()(query.x[0]).detach(), expected)
    assert adapted[1].num_batches_tracked is None or int(adapted[1].num_batches_tracked) == 0
    assert len(outputs) == N

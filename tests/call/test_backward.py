"""Code of a model that runs in the backward pass reads the weights of its own call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from innerloop import Method, methods
from innerloop.core.curvature import FiniteDifference, ForwardOverReverse
from innerloop.estimate import Adjoint, Unrolled
from innerloop.objective import Query

from .loops import T, classes, plain, same


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


class Checkpointed(nn.Module):
    """Whole, or part by part."""

    def __init__(self, parts: bool = False):
        super().__init__()
        self.net, self.parts = net(), parts

    def forward(self, x: Tensor) -> Tensor:
        if not self.parts:
            return checkpoint(self.net, x, use_reentrant=False)
        h = checkpoint(lambda v: torch.tanh(self.net[0](v)), x, use_reentrant=False)
        return checkpoint(self.net[2], h, use_reentrant=False)


class Functional(nn.Module):
    """No layer is called, the weights are read as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        def run(v: Tensor) -> Tensor:
            h = F.linear(v, self.net[0].weight, self.net[0].bias).tanh()
            return F.linear(h, self.net[2].weight, self.net[2].bias)

        return checkpoint(run, x, use_reentrant=False)


class Again(torch.autograd.Function):
    """Keeps nothing but its input, and calls the layers once more in its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: nn.Module, *own: Tensor) -> Tensor:
        ctx.layers = layers
        ctx.save_for_backward(x)
        return layers(x).detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            own = list(ctx.layers.parameters())
            y = ctx.layers(x)
            found = torch.autograd.grad(y, [x, *own], g, create_graph=True)
        return found[0], None, *found[1:]


class Recomputing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        return Again.apply(x, self.net, *self.net.parameters())


MODELS = {
    "whole": Checkpointed,
    "parts": lambda: Checkpointed(parts=True),
    "functional": Functional,
    "own function": Recomputing,
}


def reference(model: nn.Module) -> dict[str, Tensor]:
    """The same layers without anything that runs again."""
    inner = model.net
    found = plain(inner, classes(), call=lambda phi, x: functional_call(inner, phi, (x,)))
    return {f"net.{k}": g for k, g in found.items()}


@pytest.mark.parametrize("chunk", [1, T])
@pytest.mark.parametrize("estimator", [Adjoint(), Unrolled()], ids=["adjoint", "unrolled"])
@pytest.mark.parametrize("kind", MODELS)
def test_the_gradient_is_that_of_the_plain_layers(kind: str, estimator, chunk: int) -> None:
    torch.manual_seed(0)
    model = MODELS[kind]()
    method = methods.maml(model, lr=0.4, steps=3, chunk=chunk)
    method = Method(method.learner, method.objective, estimator, chunk=chunk)
    for _ in range(2):
        same(method.meta_gradient(classes()).grads, reference(model))


@pytest.mark.parametrize("kind", MODELS)
def test_first_order_and_the_adapted_weights_are_right_as_well(kind: str) -> None:
    torch.manual_seed(0)
    model, task = MODELS[kind](), classes()
    ours, theirs = (methods.fomaml(m, lr=0.4, steps=3) for m in (model, model.net))
    expected = theirs.meta_gradient(task).grads
    for k, g in ours.meta_gradient(task).grads.items():
        torch.testing.assert_close(g, expected[k.replace(".net.", ".")], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.query_outputs(task), theirs.query_outputs(task))


@pytest.mark.parametrize("curvature", [ForwardOverReverse(), FiniteDifference()])
def test_other_oracles(curvature) -> None:
    torch.manual_seed(0)
    model = Checkpointed()
    learner = methods.maml(model, lr=0.4, steps=3).learner
    found = Method(learner, Query(), Adjoint(curvature)).meta_gradient(classes()).grads
    for k, g in reference(model).items():
        torch.testing.assert_close(found[f"learner.model.{k}"], g, rtol=1e-6, atol=1e-8)


def test_dropout_inside_of_a_checkpoint() -> None:
    torch.manual_seed(0)
    model = Checkpointed()
    model.net[1] = nn.Dropout(0.3)
    grads = []
    for module in (model, model.net):
        torch.manual_seed(3)
        grads.append(methods.maml(module, lr=0.4, steps=2, chunk=1).meta_gradient(classes()).grads)
    for k, g in grads[1].items():
        found = grads[0][k.replace("model.", "model.net.")]
        torch.testing.assert_close(found, g, rtol=1e-10, atol=1e-12)


def test_reentrant_checkpoints_are_refused_with_the_way_out() -> None:
    model = net()
    model.forward = lambda x: checkpoint(model[:3], x.requires_grad_(), use_reentrant=True)
    with pytest.raises(ValueError, match="use_reentrant=False"):
        methods.maml(model).meta_gradient(classes())


def test_a_hook_of_a_tensor_that_reads_weights_is_refused() -> None:
    class Hooked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            h = self.net(x)
            h.register_hook(lambda g: g @ self.net[2].weight[:, :3])
            return h

    with pytest.raises(ValueError, match="in the backward pass in a way that cannot be followed"):
        methods.maml(Hooked()).meta_gradient(classes())


def test_a_backward_pass_that_fails_leaves_the_model_as_it_was() -> None:
    class Failing(Checkpointed):
        tired = False

        def forward(self, x: Tensor) -> Tensor:
            def run(v: Tensor) -> Tensor:
                if self.tired and torch._C._current_graph_task_id() != -1:
                    raise RuntimeError("no more")
                return self.net(v)

            return checkpoint(run, x, use_reentrant=False)

    model = Failing()
    before = dict(model.named_parameters())
    method = methods.maml(model)
    method.meta_gradient(classes())
    Failing.tired = True
    with pytest.raises(RuntimeError, match="no more"):
        method.meta_gradient(classes())
    assert all(p is before[k] for k, p in model.named_parameters())

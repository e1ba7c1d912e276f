"""Context vectors and bias transformations: what they compute, share, and refuse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from innerloop import Batch, Method, Task
from innerloop.estimate import Adjoint
from innerloop.learn import GradientLearner
from innerloop.models import Contextual, Conv4, FiLM, bias_transformed, headless, mlp
from innerloop.objective import Query
from innerloop.scope import Context
from innerloop.solve import GradientDescent


def test_context_is_concatenated_to_the_input_of_a_linear_layer():
    torch.manual_seed(0)
    inner = mlp(3, 2, (4,)).double()
    model = Contextual(inner, 5)
    assert next(k for k, _ in model.named_parameters()) == "context"
    x = torch.randn(6, 3, dtype=torch.float64)
    torch.testing.assert_close(model(x), inner(x), rtol=0, atol=0)
    with torch.no_grad():
        model.context.copy_(torch.randn(5))
    mixing = dict(model.named_parameters())["model.body.1.parametrizations.bias.0.mixing"]
    wide = mlp(8, 2, (4,)).double()
    with torch.no_grad():
        wide.body[1].weight.copy_(torch.cat([inner.body[1].weight, mixing], 1))
        wide.body[1].bias.copy_(inner.body[1].bias)
        wide.head.load_state_dict(inner.head.state_dict())
    expected = wide(torch.cat([x, model.context.expand(6, 5)], 1))
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    assert mixing.abs().max() <= 1 / math.sqrt(8)


def test_film_stands_between_norm_pool_and_activation():
    torch.manual_seed(0)
    inner = Conv4(5, channels=2, size=16, filters=3, pool="max", features="flatten")
    model = Contextual(inner, 4)
    with torch.no_grad():
        model.context.copy_(torch.randn(4))
    film = model.model.body[2].film
    assert isinstance(film, FiLM)
    x = h = torch.randn(3, 2, 16, 16)
    for i, (conv, norm, _, pool) in enumerate(inner.body[:4]):
        h = pool(norm(conv(h)))
        if i == 2:
            gamma, beta = (film.linear.weight @ model.context + film.linear.bias).chunk(2)
            h = gamma.view(1, 3, 1, 1) * h + beta.view(1, 3, 1, 1)
        h = h.relu()
    torch.testing.assert_close(model(x), inner.head(h.flatten(1)), rtol=1e-5, atol=1e-6)


def test_film_starts_as_in_the_authors_code():
    torch.manual_seed(0)
    film = FiLM(nn.Parameter(torch.zeros(100)), 500)
    bound = math.sqrt(3 / 100)
    assert 0.98 * bound < film.linear.weight.abs().max() <= bound
    assert 0.09 < film.linear.bias.abs().max() <= 0.1


def test_several_layers_share_one_context():
    model = Contextual(Conv4(5, size=8, filters=2), 3, layers=["body.0", "body.3", "head"]).double()
    names = [k for k, _ in model.named_parameters()]
    assert names.count("context") == 1 and not any(
        k.endswith(("vector", ".context")) for k in names
    )
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    (slope,) = torch.autograd.grad(model(x).sum(), model.context)
    assert (slope != 0).all()
    copied = Contextual(Conv4(5, size=8, filters=2), 3, layers=["body.0", "body.3", "head"])
    copied.double().load_state_dict(model.state_dict())
    torch.testing.assert_close(copied(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    "build", [lambda m: Contextual(m, 2), lambda m: bias_transformed(m, 2), headless]
)
def test_weights_are_shared_and_the_users_model_stays_as_it_is(build):
    inner = mlp(3, 2, (4,))
    before = str(inner)
    model = build(inner)
    shared = {id(p) for p in model.parameters()}
    wanted = inner.body if build is headless else inner
    assert {id(p) for p in wanted.parameters()} <= shared
    assert str(inner) == before and set(dict(inner.named_parameters())) == {
        "body.1.weight", "body.1.bias", "head.weight", "head.bias"
    }  # fmt: skip


def test_headless_gives_the_features():
    inner, x = mlp(3, 2, (4,)), torch.randn(5, 3)
    assert torch.equal(headless(inner)(x), inner.body(x))
    with pytest.raises(ValueError, match=r"no layer 'top'.*body"):
        headless(inner, "top")


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(3, 4), (5, 3)),
        (nn.Linear(3, 4, bias=False), (5, 7, 3)),
        (nn.Conv1d(2, 4, 3), (5, 2, 6)),
        (nn.Conv2d(2, 4, 3, bias=False, groups=2), (5, 2, 6, 6)),
        (nn.ConvTranspose2d(2, 4, 3, groups=2), (5, 2, 6, 6)),
    ],
)
def test_bias_transformation_of_every_kind_of_layer(layer, shape):
    model = bias_transformed(nn.Sequential(layer), 3, layers=["0"])
    x = torch.randn(shape)
    assert torch.equal(model(x), layer(x)), "z = 0 changes nothing"
    vector, mixing = model[0].parametrizations.bias[0].parameters()
    with torch.no_grad():
        vector.copy_(torch.randn(3))
    shift = (mixing @ vector).reshape(-1, *[1] * (len(shape) - 2))
    if isinstance(layer, nn.Linear):
        shift = shift.flatten()
    torch.testing.assert_close(model(x), layer(x) + shift)


def test_one_step_moves_the_effective_bias_by_the_formula():
    torch.manual_seed(0)
    lr = 0.3
    model = bias_transformed(nn.Sequential(nn.Linear(2, 4)).double(), 3, layers=["0"])
    transform = model[0].parametrizations.bias[0]
    with torch.no_grad():
        transform.vector.copy_(torch.randn(3))
    x, y = torch.randn(1, 2, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
    learner = GradientLearner(model, GradientDescent(lr, 1), inner="mse")
    adapted = Method(learner, Query("mse"), Adjoint(), name="bias").adapt(x, y)
    g = (2 / 4 * (model(x) - y)).squeeze(0).detach()
    v, z = transform.mixing.detach(), transform.vector.detach()
    expected = -lr * (1 + z @ z) * g - lr * v @ v.T @ g + lr**2 * (z @ v.T @ g) * g
    torch.testing.assert_close(adapted[0].bias - model[0].bias.detach(), expected)


def test_every_layer_has_a_vector_of_its_own():
    model = bias_transformed(Conv4(5, size=8, filters=2), 3, layers=["*"])
    names = [k for k, _ in model.named_parameters() if k.endswith("vector")]
    assert len(names) == 5  # four convolutions and the head
    default = bias_transformed(mlp(2, 1, (3, 3)), 3)
    assert [k for k, _ in default.named_parameters() if k.endswith("vector")] == [
        "body.1.parametrizations.bias.0.vector"
    ]


def test_film_adapts_to_a_task():
    torch.manual_seed(0)
    inner = Conv4(3, size=8, filters=4)
    learner = GradientLearner(Contextual(inner, 10), GradientDescent(1.0, 2), Context())
    x = torch.randn(2, 6, 1, 8, 8)
    y = torch.arange(6).expand(2, 6) % 3
    found = Method(learner, Query(), Adjoint(), name="film", chunk=2).meta_gradient(
        Task(Batch(x, y), Batch(x, y))
    )
    silent = {k for k, g in found.grads.items() if not g.any()}
    # What stands in front of BatchNorm cannot be shifted, and the context starts from zero.
    assert silent <= {"learner.model.context"} | {
        f"learner.model.model.body.{i}.0.bias" for i in range(4)
    }


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: Contextual(mlp(1, 1), 0), "at least 1"),
        (lambda: Contextual(mlp(1, 1), 2, layers=["body.9"]), "no layer 'body.9'"),
        (lambda: Contextual(mlp(1, 1), 2, layers=["body.0"]), "Flatten"),
        (lambda: Contextual(nn.Sequential(nn.Conv2d(1, 2, 3)), 2), "which layers"),
        (lambda: Contextual(nn.Sequential(nn.Tanh(), nn.Linear(1, 2)), 2, layers=[""]), "FiLM"),
        (lambda: bias_transformed(mlp(1, 1), 0), "at least 1"),
        (lambda: bias_transformed(mlp(1, 1), 2, layers=["body"]), "matches 'body'"),
        (lambda: bias_transformed(nn.Sequential(nn.Conv2d(1, 2, 3)), 2), "no Linear"),
    ],
)
def test_what_cannot_be_conditioned_is_refused(build, word):
    with pytest.raises(ValueError, match=word):
        build()

"""The transformer on sequences and on sets."""

import pytest
import torch

import innerloop
from innerloop import Batch, Task, methods
from innerloop.models import transformer

SMALL = {"width": 8, "heads": 2, "layers": 1, "hidden": 12}


def labelled(x: torch.Tensor, each: bool) -> Task:
    generator = torch.Generator().manual_seed(2)
    shape = x.shape[:3] if each else x.shape[:2]
    y = torch.randint(3, shape, generator=generator)
    return Task(Batch(x, y), Batch(x.flip(1), y.flip(1)))


@pytest.mark.parametrize("drop", [0.0, 0.2])
@pytest.mark.parametrize("answer", ["sequence", "element"])
@pytest.mark.parametrize("kind", ["tokens", "sets"])
def test_meta_gradients(kind, answer, drop):
    """Tokens and sets, one class or one per element, exact and equal in any chunk."""
    torch.manual_seed(0)
    given = {"tokens": 7, "length": 5} if kind == "tokens" else {"inputs": 4}
    model = transformer(3, **given, answer=answer, drop=drop, **SMALL).double()
    x = torch.randint(7, (2, 6, 5)) if kind == "tokens" else torch.randn(2, 6, 5, 4).double()
    tasks = labelled(x, answer == "element")
    assert innerloop.check(model, "cross_entropy", (x[0], tasks.support.y[0])).ok
    found = []
    for chunk in (1, 2):
        torch.manual_seed(5)
        found.append(methods.maml(model, lr=0.1, steps=2, chunk=chunk).meta_gradient(tasks))
    for key, grad in found[0].grads.items():
        torch.testing.assert_close(grad, found[1].grads[key], rtol=0, atol=1e-12)


def test_shapes_and_parts():
    words = transformer(4, tokens=9, length=6, **SMALL)
    x = torch.randint(9, (2, 5))  # shorter than the longest sequence
    assert words(x).shape == (2, 4)
    assert {k.split(".")[0] for k, _ in words.named_parameters()} == {"body", "head"}
    assert transformer(None, tokens=9, **SMALL)(x).shape == (2, 8)
    each = transformer(4, tokens=9, length=6, answer="element", **SMALL)
    assert each(x).shape == (2, 4, 5)
    assert each.features == 8


def test_a_set_has_no_order_and_a_sequence_has():
    torch.manual_seed(0)
    x, order = torch.randn(3, 6, 4).double(), torch.tensor([3, 0, 5, 1, 4, 2])
    bag = transformer(2, inputs=4, **SMALL).double()
    torch.testing.assert_close(bag(x), bag(x[:, order]), rtol=0, atol=1e-12)
    each = transformer(2, inputs=4, answer="element", **SMALL).double()
    torch.testing.assert_close(each(x)[..., order], each(x[:, order]), rtol=0, atol=1e-12)
    line = transformer(2, inputs=4, length=6, **SMALL).double()
    assert (line(x) - line(x[:, order])).abs().max() > 1e-4


def test_it_learns_to_adapt():
    """Which of two tokens means class 1 changes from task to task: one inner step must find out."""
    torch.manual_seed(0)
    model = transformer(2, tokens=2, length=3, **SMALL)
    method = methods.maml(model, lr=0.5, steps=1)
    outer = torch.optim.Adam(method.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(70):
        x = torch.randint(2, (16, 8, 3), generator=generator)
        x[..., 0] = torch.arange(8) % 2
        flip = torch.randint(2, (16, 1), generator=generator)
        y = x[..., 0] ^ flip
        outer.zero_grad()
        loss = method.loss(Task(Batch(x[:, :4], y[:, :4]), Batch(x[:, 4:], y[:, 4:])))
        loss.backward()
        outer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 10 * 0.4 < 10 * 0.65 < sum(losses[:10])  # 0.69 is chance


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({}, "either tokens"),
        ({"tokens": 3, "inputs": 3}, "either tokens"),
        ({"tokens": 0}, "at least 1"),
        ({"inputs": 3, "width": 9}, "multiple of heads"),
        ({"inputs": 3, "drop": 1.0}, "probability"),
        ({"inputs": 3, "answer": "token"}, "element"),
    ],
)
def test_bad_arguments_are_refused(settings, word):
    with pytest.raises(ValueError, match=word):
        transformer(3, **{**SMALL, **settings})


def test_too_long_a_sequence_names_the_fix():
    with pytest.raises(ValueError, match="length=5"):
        transformer(3, tokens=4, length=3, **SMALL)(torch.zeros(1, 5, dtype=torch.int64))

"""A network, a loss and tasks of one's own: loaded, checked, and kept with their digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from innerloop.config import METHODS, MLP, OwnData, OwnModel, RunConfig, Sine, launch, load
from innerloop.config.own import find, is_place
from innerloop.core import streams
from innerloop.train.settings import Settings

GOOD = """
import torch
from torch import nn

from innerloop import Batch, Task
from innerloop.data.source import Splits
from innerloop.data.values.synthetic import Sine


def net():
    return nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))


def sized(outputs, x_shape):
    return nn.Linear(x_shape[0], outputs or 7)


made = nn.Linear(1, 1)


def absolute(outputs, y):
    return (outputs - y).abs().mean()


class Weighted(nn.Module):
    def forward(self, outputs, y):
        return 2 * ((outputs - y) ** 2).mean()


weighted = Weighted()


def waves(device):
    return Sine(shot=3, queries=4, device=device)


source = Sine(shot=2, queries=2)


def three():
    return Splits(source, source, waves("cpu"))


def tasks(n=10):
    draw = torch.Generator().manual_seed(0)
    def batch(count):
        x = torch.randn(1, count, 1, generator=draw)
        return Batch(x, 2 * x)
    return [Task(batch(3), batch(2)) for _ in range(n)]


def labelled():
    x = torch.zeros(1, 4, 1)
    query = Batch(x, torch.tensor([[0, 1, 2, 0]]))
    return [Task(Batch(x, torch.tensor([[0, 1, 2, i % 3]])), query) for i in range(5)]

"""

BAD = """
import sys
from torch import nn


def fails():
    raise KeyError("no such thing")


def leaves():
    sys.exit("bye")


def needy(width):
    return nn.Linear(width, 1)


def wide():
    return nn.Linear(2, 3)


def deep():
    return nn.Linear(1, 3)


def text():
    return "a network"


def empty():
    return []


number = 3


def vector(outputs, y):
    return (outputs - y).abs()


def constant(outputs, y):
    return (outputs - y).abs().mean().detach()


def plain(outputs, y):
    return 3.0


def shapes(outputs, y):
    return (outputs @ y @ y).mean()
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.py"
    path.write_text(GOOD)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.py"
    path.write_text(BAD)
    return path


def config(**changes: Any) -> RunConfig:
    parts: dict[str, Any] = {
        "name": "x",
        "data": Sine(shot=3, queries=3),
        "model": MLP(hidden=(4,)),
        "method": METHODS["maml"](loss="mse"),
        "train": Settings(
            iterations=2, meta_batch=2, validate_every=0, validate_tasks=2, device="cpu"
        ),
    }
    return RunConfig(**{**parts, **changes})


def override(base: RunConfig, *pairs: tuple[str, str]) -> RunConfig:
    return base.override(pairs)


def test_places() -> None:
    assert is_place("a.py:b") and is_place("/x y/a.py:_b") and is_place("C:\\a.py:b")
    assert not any(map(is_place, ("cross_entropy", "a.py", "a.py:", "a.txt:b", "a.py:b.c", ":b")))


def test_every_way_to_say_it(good: Path) -> None:
    place = f"{good}:net"
    wanted = OwnModel(place=place)
    assert override(config(), ("model", place)).model == wanted
    assert override(config(), ("model.kind", place)).model == wanted
    assert override(config(), ("model.kind", "own"), ("model.place", place)).model == wanted
    assert override(config(), ("data", f"{good}:waves")).data == OwnData(place=f"{good}:waves")
    assert override(config(), ("method.loss", f"{good}:absolute")).method.loss == f"{good}:absolute"
    with pytest.raises(ValueError, match=r"model\.place: expected FILE\.py:NAME, got 'net'"):
        override(config(), ("model.kind", "own"), ("model.place", "net"))
    with pytest.raises(ValueError, match=r"model\.kind: unknown 'net\.txt:x'"):
        override(config(), ("model", "net.txt:x"))


def test_initial_weights_are_those_of_the_seed(good: Path) -> None:
    def weights(seed: int, name: str = "net") -> torch.Tensor:
        method, _ = config(model=OwnModel(place=f"{good}:{name}"), seed=seed).build("cpu")
        return torch.cat([p.flatten() for p in method.parameters()])

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))
    assert len(weights(0, "sized")) == 2, "one input and one output, as the data has them"
    one, two = (config(model=OwnModel(place=f"{good}:made")).build("cpu")[0] for _ in range(2))
    next(one.parameters()).data.fill_(7.0)
    assert not (next(two.parameters()) == 7).any(), "a module is copied, never shared"


@pytest.mark.parametrize("name", ["absolute", "weighted"])
def test_a_loss_is_the_one_that_is_minimised(good: Path, name: str) -> None:
    place = f"{good}:{name}"
    method, splits = config(method=METHODS["maml"](loss=place, steps=0)).build("cpu")
    tasks = splits.train.sample(streams.generator(0, "t"), 2)
    wanted = find(place, {})
    outputs = method.query_outputs(tasks)[-1] if hasattr(method, "query_outputs") else None
    assert outputs is not None
    by_hand = torch.stack([wanted(o, y) for o, y in zip(outputs, tasks.query.y, strict=True)])
    torch.testing.assert_close(method.loss(tasks).detach(), by_hand.mean().detach())


@pytest.mark.parametrize(
    ("name", "sizes"), [("waves", (3, 4)), ("source", (2, 2)), ("three", (3, 4)), ("tasks", (3, 2))]
)
def test_tasks(good: Path, name: str, sizes: tuple[int, int]) -> None:
    method, splits = config(data=OwnData(place=f"{good}:{name}")).build("cpu")
    test = splits.test.sample(streams.generator(0, "t"), 2)
    assert (test.support.x.shape, test.query.x.shape) == ((2, sizes[0], 1), (2, sizes[1], 1))
    assert torch.isfinite(method.loss(splits.train.sample(streams.generator(0, "t"), 2)))


def test_a_list_is_parted_in_its_order_and_drawn_without_repeats(good: Path) -> None:
    tasks = find(f"{good}:tasks", {})()
    _, splits = config(data=OwnData(place=f"{good}:tasks")).build("cpu")
    parts = [
        s.sample(torch.Generator().manual_seed(0), n)
        for s, n in zip((splits.train, splits.validation, splits.test), (6, 2, 2), strict=True)
    ]
    drawn = [sorted(p.support.x[:, 0, 0].tolist()) for p in parts]
    given = [t.support.x[0, 0].item() for t in tasks]
    assert drawn == [sorted(given[:6]), sorted(given[6:8]), sorted(given[8:])]
    again = splits.train.sample(torch.Generator().manual_seed(0), 6)
    assert torch.equal(again.support.x, parts[0].support.x)
    assert splits.train.describe()["tasks"] == "6"
    spec = config(data=OwnData(place=f"{good}:labelled"), method=METHODS["maml"]()).build("cpu")[1]
    assert (spec.test.spec.kind, spec.test.spec.outputs) == ("classification", 3)


@pytest.mark.parametrize(
    ("setting", "place", "said"),
    [
        ("model", "missing.py:net", "missing.py is not a file"),
        ("model", "BAD:nothing", "defines no 'nothing'; it defines sys, nn, fails"),
        ("model", "BAD:number", "is int, expected a function that makes it"),
        ("model", "BAD:fails", "bad.py, line 7: fails() raised KeyError: 'no such thing'"),
        ("model", "BAD:leaves", "bad.py, line 11: leaves() raised SystemExit: bye"),
        ("model", "BAD:needy", "needs width; expected a function without arguments"),
        ("model", "BAD:text", "gave str, expected a torch.nn.Module"),
        ("model", "BAD:wide", "two inputs of shape (1,) raised RuntimeError"),
        ("model", "BAD:deep", "outputs of shape (2, 3) for two inputs of shape (1,)"),
        ("data", "BAD:text", "gave str, expected a Source, Splits, or a list"),
        ("data", "BAD:empty", "gave list, expected a Source, Splits, or a list"),
        ("method.loss", "BAD:number", "is int, expected a function loss(outputs, y)"),
        ("method.loss", "GOOD:Weighted", "is a class, expected a function loss(outputs, y)"),
        ("method.loss", "BAD:vector", "gave shape (3, 1) for outputs (3, 1)"),
        ("method.loss", "BAD:constant", "gave one without a gradient"),
        ("method.loss", "BAD:plain", "gave float for outputs"),
        ("method.loss", "BAD:shapes", "the loss of one task raised RuntimeError"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    setting: str, place: str, said: str, good: Path, bad: Path, tmp_path: Path
) -> None:
    place = place.replace("GOOD", str(good)).replace("BAD", str(bad))
    run = tmp_path / "run"
    with pytest.raises((ValueError, OSError)) as error:
        launch(override(config(), (setting, place)), run)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not run.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = 1 / 0\n", "line 2: importing it raised ZeroDivisionError: division by zero"),
        ("x = 1\n\ndef f(:\n", "line 3: importing it raised SyntaxError"),
        ("import no_such_library\n", "line 1: importing it raised ModuleNotFoundError"),
        ("import sys\nsys.exit(3)\n", "line 2: importing it raised SystemExit: 3"),
    ],
)
def test_a_file_that_fails_when_it_is_imported(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        find(f"{path}:net", {})
    assert said in str(error.value)


def test_a_run_keeps_the_digest_and_refuses_a_changed_file(good: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ours = config(
        data=OwnData(place=f"{good}:waves"),
        model=OwnModel(place=f"{good}:net"),
        method=METHODS["maml"](loss=f"{good}:absolute"),
    )
    launch(ours, run)
    kept, method, _ = load(run)
    assert list(kept.files) == [str(good)] and len(kept.files[str(good)]) == 64
    x = torch.zeros(3, 1)
    assert method.adapt(x, x)(x).shape == (3, 1)
    launch(override(kept, ("train.iterations", "3")), run, resume=True)

    good.write_text(GOOD.replace("abs().mean()", "abs().sum()"))
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=r"good\.py has changed since the run was made"):
        load(run)
    with pytest.raises(ValueError, match="changed"):
        launch(override(kept, ("train.iterations", "4")), run, resume=True)
    with pytest.raises(ValueError, match="files"):
        launch(override(kept, ("files", "{}")), run, resume=True)
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert load(run, settings=[("files", "{}")])[0].files == {}

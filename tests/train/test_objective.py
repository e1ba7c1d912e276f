"""Learned outer rates, weighted groups and a discriminator in a run: resumed, logged, refused."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from innerloop import methods
from innerloop.config import METHODS, MLP, Auxiliary, RunConfig, Sine, SineGroups, launch
from innerloop.config.auxiliary import labelled
from innerloop.core import streams
from innerloop.core.types import MetaGradient, Task
from innerloop.data.images.episodes import Episodes
from innerloop.data.pool import ClassPool
from innerloop.data.pool_writer import PoolWriter
from innerloop.data.source import Source, Splits
from innerloop.models import Network
from innerloop.train import checkpoint
from innerloop.train.hypergradient import Hypergradient
from innerloop.train.interrupt import Interrupted
from innerloop.train.log import read_metrics
from innerloop.train.loop import train
from innerloop.train.objective import OuterProblem
from innerloop.train.outer import OuterOptimizer
from innerloop.train.ranks import Ranks
from innerloop.train.settings import Settings
from innerloop.train.weights import load_weights

TIMES = ("step_seconds", "tasks_per_second", "seconds")


def settings(**changed: Any) -> Settings:
    small: dict[str, Any] = {
        "iterations": 6,
        "meta_batch": 4,
        "log_every": 2,
        "validate_every": 3,
        "validate_tasks": 4,
        "checkpoint_every": 3,
        "device": "cpu",
    }
    return Settings(**{**small, **changed})


def pool(first: int = 0, classes: int = 8) -> ClassPool:
    """Pictures of noise around a picture per class; two groups."""
    torch.manual_seed(first)
    label = torch.arange(classes).repeat_interleave(4)
    images = torch.randn(classes, 1, 4, 4)[label] + 0.1 * torch.randn(len(label), 1, 4, 4)
    return ClassPool(
        images=images,
        label=label,
        class_names=[f"class {first + i}" for i in range(classes)],
        class_group=torch.arange(classes) // (classes // 2),
        group_names=["left", "right"],
    )


def pictures(auxiliary: bool = True) -> Splits:
    sources = [
        Episodes(pool(i), way=2, shot=1, queries=2, within_group=True) for i in (0, 100, 200)
    ]
    splits = Splits(*sources)
    if not auxiliary:
        return splits
    return Splits(*sources, auxiliary=labelled(splits, Auxiliary(images=16)))


def concepts() -> methods.Method:
    torch.manual_seed(0)
    model = Network(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh()), nn.Linear(6, 2), features=6
    )
    return methods.deml(model, nn.Linear(6, 8), lam=0.5, lr=0.1)


def curves(kind: str = "maml", data: Any = None, **changed: Any) -> RunConfig:
    return RunConfig(
        name="small",
        data=data or Sine(shot=5, queries=5),
        model=MLP(hidden=(8,)),
        method=METHODS[kind](loss="mse", lr=0.01, steps=1),
        train=settings(**changed),
    )


RUNS: dict[str, Any] = {
    "alpha_maml, adam": lambda: (
        *curves("alpha_maml", outer_hyper=1e-5, inner_hyper=1e-4).build(),
        settings(outer_hyper=1e-5, inner_hyper=1e-4),
    ),
    "hypergradient, sgd": lambda: (
        *curves(outer_hyper=1e-4, normalised_hyper=True, optimizer="sgd").build(),
        settings(outer_hyper=1e-4, normalised_hyper=True, optimizer="sgd"),
    ),
    "task weights": lambda: (
        *curves(data=SineGroups(shot=5, queries=5)).build(),
        settings(robust_lr=1e-3),
    ),
    "discriminator": lambda: (concepts(), pictures(), settings()),
    "all": lambda: (
        concepts(),
        pictures(),
        settings(robust_lr=0.1, robust_update="exponentiated", outer_hyper=1e-4, inner_hyper=1e-3),
    ),
}


class Stopping(Source):
    """A source whose third draw sends SIGTERM."""

    def __init__(self, source: Source) -> None:
        self.source, self.spec, self.groups, self.drawn = source, source.spec, source.groups, 0

    def sample(self, generator: torch.Generator, n: int) -> Task:
        self.drawn += 1
        if self.drawn == 3:
            signal.raise_signal(signal.SIGTERM)
        return self.source.sample(generator, n)

    def task_groups(self, generator: torch.Generator, n: int) -> torch.Tensor:
        return self.source.task_groups(generator, n)

    def describe(self) -> dict[str, str]:
        return self.source.describe()


def numbers(run_dir: Path) -> list[dict[str, Any]]:
    records = read_metrics(run_dir / "metrics.jsonl")
    return [{k: v for k, v in r.items() if k not in TIMES} for r in records]


@pytest.mark.parametrize("kind", RUNS)
def test_a_resumed_run_repeats_the_bits(kind: str, tmp_path: Path) -> None:
    method, splits, how = RUNS[kind]()
    whole = train(method, splits, how, seed=0, run_dir=tmp_path / "whole")
    stopped, splits, how = RUNS[kind]()
    halting = Splits(Stopping(splits.train), splits.validation, splits.test, splits.auxiliary)
    with pytest.raises(Interrupted):
        train(stopped, halting, how, seed=0, run_dir=tmp_path / "parts")
    again, splits, how = RUNS[kind]()
    state = train(again, splits, how, seed=0, run_dir=tmp_path / "parts", resume=True)
    for k, v in method.state_dict().items():
        assert torch.equal(v, again.state_dict()[k]), k
    one, two = (torch.utils._pytree.tree_leaves(s.optimizer) for s in (whole, state))
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "parts")


def test_learned_rates_are_logged_and_move(tmp_path: Path) -> None:
    method, splits, how = RUNS["alpha_maml, adam"]()
    train(method, splits, how, seed=0, run_dir=tmp_path)
    records = [r for r in read_metrics(tmp_path / "metrics.jsonl") if r["event"] == "train"]
    assert len({r["lr"] for r in records}) == len({r["inner_lr"] for r in records}) == 3
    assert records[-1]["inner_lr"] == float(method.learner.solver.rate.value.detach())


def test_the_weights_are_logged_and_move(tmp_path: Path) -> None:
    method, splits, how = RUNS["task weights"]()
    state = train(method, splits, how, seed=0, run_dir=tmp_path)
    last = [r for r in read_metrics(tmp_path / "metrics.jsonl") if r["event"] == "train"][-1]
    p = state.optimizer["task_weights"]["p"]
    assert last["heaviest_weight"] == float(p.max()) > 0.01
    assert last["heaviest_group"] == splits.train.groups[int(p.argmax())]


def test_the_rate_is_that_of_the_hypergradient() -> None:
    """The loop's optimiser against `Hypergradient` on a copy, with clipped gradients."""
    built, twin = (nn.Linear(3, 1, bias=False).double() for _ in range(2))
    twin.load_state_dict(built.state_dict())
    outer = OuterOptimizer(built, Settings(lr=0.1, outer_hyper=1e-2, clip_value=1.0))
    reference = Hypergradient(torch.optim.Adam(twin.parameters(), lr=0.1), 1e-2)
    for value in (3.0, 0.5, -0.2):
        g = torch.full_like(built.weight, value)
        loss = torch.zeros(())
        outer.update(MetaGradient(loss, {"weight": g.clone()}, {}), 0.5, "")
        twin.weight.grad = g.clamp(-1, 1)
        reference.step()
        assert outer.rates()["lr"] == pytest.approx(reference.param_groups[0]["lr"], rel=1e-9)
        torch.testing.assert_close(built.weight, twin.weight, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"outer_hyper": 1e-5, "schedule": "cosine"}, "schedule=constant"),
        ({"lr_end": 1e-5}, "lr_end: 1e-05 is where a schedule ends"),
        ({"inner_hyper": 1e-5}, "outer_hyper: missing"),
        ({"normalised_hyper": True}, "outer_hyper: missing"),
        ({"robust_update": "exponentiated"}, "robust_lr: missing"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changed: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        OuterOptimizer(nn.Linear(1, 1), Settings(**changed))
    typed = [(f"train.{k}", str(v).lower()) for k, v in changed.items()]
    with pytest.raises(ValueError, match=word):
        curves().override(typed)


def test_an_inner_rate_that_is_not_learned_is_refused() -> None:
    method, _ = curves().build()
    with pytest.raises(ValueError, match=r"method\.kind=alpha_maml"):
        OuterOptimizer(method, settings(outer_hyper=1e-5, inner_hyper=1e-5))


def test_a_learned_rate_is_not_set_again_on_resumption(tmp_path: Path) -> None:
    launch(curves(outer_hyper=1e-5, iterations=2), tmp_path)
    with pytest.raises(ValueError, match=r"train\.lr.*has learned"):
        launch(curves(outer_hyper=1e-5, iterations=2, lr=0.5), tmp_path, resume=True)


def test_the_gradient_of_the_labelled_batch_is_added_once_over_ranks() -> None:
    """Two ranks, played one after the other: the mean of their shares is that of one process."""
    splits, how = pictures(), settings(robust_lr=0.1)
    tasks = splits.train.sample(streams.generator(0, "train", 0), 4)
    alone = OuterProblem(concepts(), splits, how, 0, Ranks())
    expected = alone.meta_gradient(0, tasks, 0.0)
    total: dict[str, torch.Tensor] = {}
    for rank in range(2):
        ranks = Ranks(rank, 2)
        own = OuterProblem(concepts(), splits, how, 0, ranks)
        found = own.meta_gradient(0, ranks.own(tasks), 0.0)
        total = {k: total.get(k, 0) + g / 2 for k, g in found.grads.items()}
    for k, g in expected.grads.items():
        torch.testing.assert_close(total[k], g, rtol=1e-4, atol=1e-7)


def test_groups_and_labelled_examples_must_be_there() -> None:
    plain = curves().build()[0]
    with pytest.raises(ValueError, match="no groups"):
        OuterProblem(plain, curves().build()[1], settings(robust_lr=1.0), 0, Ranks())
    with pytest.raises(ValueError, match="labelled examples"):
        OuterProblem(concepts(), pictures(auxiliary=False), settings(), 0, Ranks())
    with pytest.raises(ValueError, match="deml"):
        OuterProblem(plain, pictures(), settings(), 0, Ranks())


def test_labelled_batches_hold_lasting_classes() -> None:
    splits = pictures()
    assert splits.auxiliary is not None and splits.trained_outputs == 8
    drawn = splits.auxiliary.sample(streams.generator(0), 1).query
    assert drawn.x.shape == (1, 16, 1, 4, 4)
    held = pool()
    centre = torch.stack([held.images[held.label == c].mean(0) for c in range(8)])
    nearest = (drawn.x[0].unsqueeze(1) - centre).flatten(2).norm(dim=2).argmin(1)
    assert torch.equal(nearest, drawn.y[0]) and drawn.y.unique().numel() == 8


def test_external_labelled_images(tmp_path: Path) -> None:
    def written(name: str, side: int = 4, first: int = 900) -> str:
        with PoolWriter(tmp_path / name) as writer:
            for i in range(3):
                pictures = torch.full((5, 1, side, side), 50 * i, dtype=torch.uint8)
                writer.add(f"class {first + i}", pictures)
        return str(tmp_path / name)

    splits = pictures(auxiliary=False)
    source = labelled(splits, Auxiliary(images=9, root=written("other")))
    drawn = source.sample(streams.generator(0), 1).query
    assert source.spec.outputs == 3 and drawn.x.shape[:2] == (1, 9)
    torch.testing.assert_close(drawn.x[0, :, 0, 0, 0] * 255, 50.0 * drawn.y[0])
    with pytest.raises(ValueError, match=r"shape \(1, 4, 4\).*got \(1, 6, 6\)"):
        labelled(splits, Auxiliary(root=written("large", side=6)))
    with pytest.raises(ValueError, match=r"3 classes of .* test classes as well"):
        labelled(splits, Auxiliary(root=written("test", first=200)))


def test_only_a_discriminator_reads_labelled_images() -> None:
    with pytest.raises(ValueError, match=r"auxiliary: maml has no discriminator"):
        curves().override([("auxiliary.images", "8")])
    with pytest.raises(ValueError, match="classes that last"):
        curves("deml").build()


def test_a_run_is_scored_without_its_labelled_images(tmp_path: Path) -> None:
    method, splits, how = RUNS["discriminator"]()
    train(method, splits, how, seed=0, run_dir=tmp_path)
    fresh = concepts()
    load_weights(checkpoint.weights_of(tmp_path, "last"), fresh)
    assert torch.equal(fresh.objective.discriminator.weight, method.objective.discriminator.weight)

"""Configurations: YAML in and out, overrides, and errors that come all at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
import torch
import yaml

from innerloop import methods
from innerloop.config import (
    METHODS,
    MLP,
    MODELS,
    SOURCES,
    ConfigError,
    Conv4,
    Glyphs,
    Omniglot,
    RunConfig,
    Sine,
    load_yaml,
    plain,
    read,
)
from innerloop.config.run import device
from innerloop.config.schema import Text, merge, nest
from innerloop.config.signature import section
from innerloop.core import streams
from innerloop.core.bounds import Bound, Count
from innerloop.data.source import Spec
from innerloop.recipes import RECIPES, recipe


@dataclass(frozen=True)
class Left:
    kind: ClassVar[str] = "left"
    width: Count = 1


@dataclass(frozen=True)
class Right:
    kind: ClassVar[str] = "right"
    height: Annotated[float, Bound(low=0, high=1, open=True)] = 0.5


@dataclass(frozen=True)
class Example:
    side: Left | Right
    name: str = "x"
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[float, float] = (0.0, 1.0)
    mode: Literal["a", "b"] | None = None
    flag: bool = False
    maybe: int | Literal["auto"] = "auto"
    inner: Left = field(default_factory=Left)


def parsed(**data: Any) -> Example:
    return read(Example, {"side": {"kind": "left"}, **data}, "here")


def problems(**data: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parsed(**data)
    return error.value.problems


def test_what_is_written_reads_back() -> None:
    one = Example(Right(height=0.25), sizes=(4,), mode="b", maybe=3)
    data = yaml.safe_load(yaml.safe_dump(plain(one)))
    assert data["side"] == {"kind": "right", "height": 0.25}
    assert read(Example, data, "here") == one


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"nmae": "y"}, "nmae: unknown key; did you mean name?"),
        ({"side": {"kind": "left", "hieght": 1}}, "side.hieght: unknown key; known: width"),
        ({"side": {"kind": "rigth"}}, "side.kind: unknown 'rigth'; did you mean right?"),
        ({"side": {}}, "side.kind: missing; known: left, right"),
        (
            {"side": {"kind": "left", "width": -1}},
            "side.width: expected an integer at least 0, got -1",
        ),
        (
            {"side": {"kind": "left", "width": 1.5}},
            "side.width: expected an integer at least 0, got 1.5",
        ),
        ({"side": {"kind": "left", "width": True}}, "expected an integer at least 0, got True"),
        (
            {"side": {"kind": "right", "height": 0}},
            "expected a number above 0 and at most 1, got 0",
        ),
        ({"side": {"kind": "right", "height": float("nan")}}, "above 0 and at most 1, got nan"),
        ({"sizes": 3}, "sizes: expected a list of integers, got 3"),
        ({"sizes": [1, "two"]}, "sizes: expected a list of integers, got [1, 'two']"),
        ({"pair": [1.0]}, "pair: expected a list of 2 numbers, got [1.0]"),
        ({"mode": "c"}, "mode: expected 'a' or 'b' or null, got 'c'"),
        ({"flag": "yes please"}, "flag: expected true or false, got 'yes please'"),
        ({"maybe": "none"}, "maybe: expected an integer or 'auto', got 'none'"),
        ({"inner": 3}, "inner.kind: unknown 3; known: left"),
    ],
)
def test_one_mistake(data: dict[str, Any], problem: str) -> None:
    found = problems(**data)
    assert len(found) == 1
    assert problem in found[0]


def test_all_mistakes_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        read(Example, {"nmae": 1, "sizes": "x", "flag": 3}, "my.yaml")
    text = str(error.value)
    assert text.startswith("4 problems in my.yaml:\n")
    for word in ("nmae", "sizes", "flag", "side: missing; it has no default"):
        assert word in text


def test_numbers_as_people_write_them() -> None:
    assert read(Right, {"height": "1e-3"}, "here").height == 1e-3
    assert read(Right, {"height": 1}, "here").height == 1.0


def test_typed_text() -> None:
    typed = {"sizes": Text("[3, 4]"), "name": Text("7"), "flag": Text("true"), "mode": Text("null")}
    one = parsed(**typed, maybe=Text("5"))
    assert (one.sizes, one.name, one.flag, one.mode, one.maybe) == ((3, 4), "7", True, None, 5)


def test_merge_keeps_a_section_unless_its_kind_changes() -> None:
    base = {"side": {"kind": "left", "width": 5}, "name": "x"}
    assert merge(base, {"side": {"width": 6}})["side"] == {"kind": "left", "width": 6}
    assert merge(base, {"side": {"kind": "right"}})["side"] == {"kind": "right"}
    assert merge(base, {"side": {"kind": "left"}})["side"] == {"kind": "left", "width": 5}


def test_nested_overrides() -> None:
    assert nest([("a.b", "1"), ("a.c", "2"), ("d", "3")]) == {"a": {"b": "1", "c": "2"}, "d": "3"}
    with pytest.raises(ConfigError, match="already given a value"):
        nest([("a", "1"), ("a.b", "2")])


def test_sections_take_their_defaults_from_signatures() -> None:
    def function(
        model: object,
        *,
        lr: Annotated[float, Bound(low=0, open=True)] = 0.5,
        steps: int,
        call: Any = None,
    ) -> tuple[Any, ...]:
        return model, lr, steps

    made = section("one_two", function, given=("model",))
    assert made.__name__ == "OneTwo" and made.kind == "one_two"
    assert made(steps=3).call("m") == ("m", 0.5, 3)
    with pytest.raises(ConfigError) as error:
        read(made, {"lr": 0, "call": 1}, "here")
    assert len(error.value.problems) == 3


def test_every_named_method_and_network_has_a_section() -> None:
    assert {"maml", "fomaml", "reptile", "imaml", "anil", "boil", "meta_sgd"} <= METHODS.keys()
    assert METHODS["imaml"]().lam == 2.0
    assert METHODS["maml"]().lr == methods.maml.__kwdefaults__["lr"]
    assert set(MODELS) == {"mlp", "conv4", "resnet12", "wide_resnet", "r2d2_net"}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_survive_yaml(name: str, tmp_path: Path) -> None:
    config = recipe(name)
    if name.startswith("folder"):
        with pytest.raises(ConfigError, match=r"data.root: missing.*--data.root DIR"):
            config.override([("seed", "1")])
        config = config.override([("data.root", "somewhere")])
    path = tmp_path / "run.yaml"
    path.write_text(config.to_yaml())
    assert load_yaml(path) == config
    assert config.name == name


@pytest.mark.parametrize("name", sorted(n for n in RECIPES if not n.startswith("folder")))
def test_recipes_build_their_method(name: str) -> None:
    """Without data: the shapes are known."""
    config = recipe(name)
    shape, way = ((1,), 1) if name.startswith("sine") else ((1, 28, 28), config.test.way or 5)
    kind = "regression" if name.startswith("sine") else "classification"
    method = config.build_method(Spec(kind, shape, way), 20, "cpu")
    assert method.describe()["method"] == config.method.kind
    x = torch.zeros(2, 5, *shape)
    if config.method.kind != "protonet":
        trained = [p for p in method.parameters() if p.requires_grad]
        assert trained
        assert torch.isfinite(torch.cat([p.flatten() for p in trained])).all(), x.shape


def test_paper_numbers() -> None:
    """The rows that others compare with; a change here is a change of the experiment."""
    sine = recipe("sine-5shot/maml")
    assert (sine.data.shot, sine.data.queries, sine.test.shot) == (10, 10, 5)
    assert (sine.method.lr, sine.method.steps, sine.train.iterations) == (0.001, 1, 70_000)
    assert (sine.train.meta_batch, sine.train.lr, sine.evaluate.tasks) == (25, 1e-3, 600)
    context = recipe("sine-5shot/cavia")
    assert (context.method.lr, context.method.context, context.train.clip_value) == (1.0, 5, 10.0)
    assert (context.model.init, context.train.iterations) == ("pytorch", 50_000)
    learned = recipe("sine-frequency-5shot/meta_sgd")
    assert (learned.data.shot, learned.data.queries, learned.test.queries) == (5, 10, 100)
    assert learned.data.frequency == (0.8, 1.2) and learned.data.phase == (-math.pi, 0.0)
    assert (learned.method.lr, learned.method.steps, learned.train.iterations) == (0.01, 1, 60_000)
    few = recipe("omniglot-5w1s/maml")
    assert few.method.lr == pytest.approx(0.4 * 5) and few.method.steps == 1
    many = recipe("omniglot-20w5s/maml")
    assert many.method.lr == pytest.approx(0.1 * 20) and many.train.meta_batch == 16
    assert (few.model.init, few.model.features) == ("maml", "mean")
    implicit = recipe("omniglot-5w1s/imaml")
    assert (implicit.train.eps, implicit.model.init) == (1e-3 / 6, "imaml")
    for family in ("omniglot-5w1s", "omniglot-20w1s", "folder-5w5s", "glyphs-5w1s"):
        for kind in ("boil", "meta_sgd", "deml"):
            one = recipe(f"{family}/{kind}")
            assert (one.method.steps, one.evaluate.steps) == (1, 1), one.name
    boil = recipe("mini-imagenet-5w5s/boil")
    assert (boil.model.filters, boil.train.iterations, boil.train.meta_batch) == (64, 30_000, 4)
    assert recipe("mini-imagenet-5w1s/reptile").model.pool == "max-same"
    alpha = recipe("omniglot-5w1s-quick/alpha_maml").train
    assert alpha.outer_hyper and alpha.inner_hyper and alpha.schedule == "constant"
    assert recipe("omniglot-20w1s/reptile").train.iterations == 200_000


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"did you mean sine-5shot/maml\?.*innerloop recipes"):
        recipe("sine-5shots/maml")


def test_overrides() -> None:
    config = recipe("omniglot-5w1s/maml").override(
        [("method", "reptile"), ("train.lr", "1e-2"), ("data.way", "20"), ("model.filters", "8")]
    )
    assert config.method == METHODS["reptile"]()
    assert (config.train.lr, config.data.way, config.model.filters) == (0.01, 20, 8)
    assert config.data.rotate == "augment"
    with pytest.raises(ConfigError) as error:
        recipe("omniglot-5w1s/maml").override(
            [("train.l", "1"), ("method.lr", "-1"), ("data.way", "x"), ("trian.lr", "1")]
        )
    assert len(error.value.problems) == 4
    assert "method.lr: expected a number above 0, got -1" in str(error.value)


def test_files_that_are_not_configurations(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    with pytest.raises(FileNotFoundError):
        load_yaml(path)
    for text in ("a: [", "- 1\n- 2\n", ""):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"bad\.yaml"):
            load_yaml(path)


def config(**changes: Any) -> RunConfig:
    parts: dict[str, Any] = {
        "name": "x",
        "data": Sine(),
        "model": MLP(hidden=(4,)),
        "method": METHODS["maml"](loss="mse"),
    }
    return RunConfig(**{**parts, **changes})


def test_initial_weights_are_the_seeds() -> None:
    torch.manual_seed(1)
    one, _ = config().build("cpu")
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1)), "building must not disturb the global generator"
    two, _ = config().build("cpu")
    three, _ = config(seed=1).build("cpu")
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (one, two, three)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_test_tasks_may_have_other_sizes() -> None:
    from innerloop.config import TestTasks

    _, splits = config(test=TestTasks(shot=3, queries=4)).build("cpu")
    train = splits.train.sample(streams.generator(0, "t"), 2)
    test = splits.test.sample(streams.generator(0, "t"), 2)
    assert train.support.x.shape == (2, 10, 1)
    assert (test.support.x.shape, test.query.x.shape) == ((2, 3, 1), (2, 4, 1))
    with pytest.raises(ValueError, match=r"test\.way has no meaning for data\.kind=sine"):
        config(test=TestTasks(way=3)).build("cpu")


def test_a_network_that_does_not_fit_the_data() -> None:
    with pytest.raises(ValueError, match=r"model\.kind=conv4 needs square images.*model\.kind=mlp"):
        config(model=Conv4()).build("cpu")


def test_devices() -> None:
    assert device("cpu") == torch.device("cpu")
    assert device("auto").type in ("cpu", "cuda", "mps", "xpu")
    with pytest.raises(ValueError, match=r"train\.device='nonsense' cannot be used"):
        device("nonsense")


def test_ink() -> None:
    from innerloop.config import sources

    assert sources.ink_is_one(Glyphs()) and sources.ink_is_one(Omniglot())
    assert not sources.ink_is_one(Omniglot(invert=False)) and not sources.ink_is_one(Sine())


def test_the_json_schema_names_every_kind_and_setting() -> None:
    from innerloop.config import schema

    text = schema()
    assert text["$schema"].endswith("2020-12/schema")
    assert {"name", "data", "model", "method", "train"} <= text["properties"].keys()
    assert set(text["required"]) == {"name", "data", "model", "method"}
    kinds = {
        d["properties"]["kind"]["const"]
        for d in text["$defs"].values()
        if "kind" in d["properties"]
    }
    assert kinds == {*METHODS, *MODELS, *SOURCES, "own"}
    assert text["additionalProperties"] is False


def test_other_sizes_keep_every_setting_of_the_episodes() -> None:
    """Whatever `Episodes` takes, by its signature: none can be forgotten."""
    import inspect

    from innerloop.data.images.episodes import Episodes
    from innerloop.data.pool import ClassPool

    images = torch.arange(6 * 4 * 4, dtype=torch.uint8).reshape(24, 1, 2, 2)
    labels = torch.arange(24) // 4
    pool = ClassPool(images, labels, list("pqrstu"), torch.tensor([0, 0, 0, 1, 1, 1]), ["a", "b"])
    other = {
        "pool": pool, "way": 3, "shot": 1, "queries": 2, "rotate": "augment",
        "augment": "flip-shift", "within_group": True, "device": torch.device("cpu"),
        "name": "mine", "split": "some",
    }  # fmt: skip
    parameters = inspect.signature(Episodes).parameters
    assert set(other) == set(parameters), "a new setting: give it a value that is not its default"
    assert not [k for k, p in parameters.items() if p.default is other[k]]
    one = Episodes(**other)
    two = one.replace(way=2, queries=1)
    for name in parameters:
        expected = {"way": 2, "queries": 1}.get(name, getattr(one, name))
        found = getattr(two, name)
        if name == "pool":  # a pool on a device is a copy around the same images
            found, expected = found.images.data_ptr(), images.data_ptr()
        assert found == expected, name
    assert two.spec.outputs == 2
    with pytest.raises(ValueError, match="shot"):
        one.replace(shot=0)

"""From files in a published layout to a trained, tested run, by the command line."""

import json
import shlex

import pytest

from innerloop.cli import main
from innerloop.config import METHODS
from innerloop.recipes import PUBLISHED, RECIPES, recipe

from . import layouts

SHORT = shlex.split(
    "--data.queries 1 --train.iterations 2 --train.meta-batch 1 --train.validate-every 2 "
    "--train.validate-tasks 2 --train.log-every 1 --train.device cpu --evaluate.tasks 3"
)


@pytest.mark.parametrize(
    ("name", "write", "more"),
    [
        ("mini-imagenet-5w1s/maml", layouts.mini_cache, "--model.filters 2"),
        ("mini-imagenet-5w1s/protonet", layouts.mini_csv, "--model.filters 2"),
        (
            "cifar-fs-5w1s/anil",
            layouts.cifar_folders,
            "--model resnet12 --model.widths [2,2,2,3] --model.block_size 2",
        ),
        (
            "fc100-5w1s/fomaml",
            lambda root: layouts.labelled(root, "FC100", "fc100"),
            "--model wide_resnet --model.depth 10 --model.width 1 --model.drop 0.1",
        ),
        (
            "tiered-imagenet-5w1s/reptile",
            layouts.tiered_png,
            "--data.shot 1 --method.batch_size 2 --model.filters 2",
        ),
        (
            "cub-5w1s/maml",
            layouts.birds,
            "--data.size 16 --data.crop true --model r2d2_net --model.widths [2,2,2,2]",
        ),
    ],
)
def test_two_steps_and_a_test(tmp_path, name, write, more):
    root, run = write(tmp_path / "data"), tmp_path / "run"
    words = ["train", name, "--data.root", str(root), "--run", str(run), *SHORT, *more.split()]
    assert main(words) == 0
    assert main(["evaluate", str(run)]) == 0
    said = json.loads((run / "task.json").read_text())
    assert said["train"]["source"].startswith(name.partition("-5w")[0] + ", partial")
    assert said["outputs"] == 5


def test_a_published_set_that_is_not_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("INNERLOOP_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["train", "mini-imagenet-5w1s/maml", "--run", str(tmp_path / "run")]) != 0
    said = " ".join(capsys.readouterr().err.split())
    for word in ("no train split of mini-imagenet", "nowhere", "meta-learning-lstm", "--data.root"):
        assert word in said
    assert not (tmp_path / "run").exists()


def test_every_published_set_has_its_recipes():
    for dataset in PUBLISHED:
        for shot in (1, 5):
            config = recipe(f"{dataset}-5w{shot}s/maml")
            assert (config.data.way, config.data.shot, config.data.queries) == (5, shot, 15)
            assert config.method == METHODS["maml"](lr=0.05, steps=5)  # 0.01 on the summed loss
    wide = recipe("mini-imagenet-5w5s/protonet")
    assert (wide.data.way, wide.test.way, wide.model.filters) == (20, 5, 64)
    assert len([name for name in RECIPES if name.startswith("tiered-imagenet-")]) == 22

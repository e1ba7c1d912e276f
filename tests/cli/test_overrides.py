"""Which words of a command line are settings."""

from __future__ import annotations

import pytest

from innerloop.cli.overrides import Overrides, divide


@pytest.mark.parametrize(
    ("line", "rest", "settings"),
    [
        ("train a --train.lr 0.1 --run d", "train a --run d", [("train.lr", "0.1")]),
        ("train a --train.lr=0.1", "train a", [("train.lr", "0.1")]),
        ("train a --train.lr -1", "train a", [("train.lr", "-1")]),
        ("train a --train.log-every 5", "train a", [("train.log_every", "5")]),
        ("train a --data.skip-bad --run d", "train a --run d", [("data.skip_bad", "true")]),
        ("train a --skip-bad", "train a", [("data.skip_bad", "true")]),
        (
            "train a --method reptile --seed 3",
            "train a",
            [("method.kind", "reptile"), ("seed", "3")],
        ),
        ("evaluate r --seed 3 --test.shot 5", "evaluate r --seed 3", [("test.shot", "5")]),
        ("train a --minutes 2", "train a", [("train.minutes", "2")]),
        ("reproduce o --minutes 2", "reproduce o --minutes 2", []),
        ("evaluate r --files {}", "evaluate r", [("files", "{}")]),
        ("prepare omniglot --out a.b", "prepare omniglot --out a.b", []),
        ("adapt r --out a.b --query x.png", "adapt r --out a.b --query x.png", []),
        ("prepare omniglot --train.lr 3", "prepare omniglot --train.lr 3", []),
        ("", "", []),
    ],
)
def test_divide(line: str, rest: str, settings: list[tuple[str, str]]) -> None:
    assert divide(line.split()) == (rest.split(), Overrides(tuple(settings)))

"""YAML that is hostile or odd is refused in one line, at once; what people write is read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from innerloop.config import ConfigError, load_yaml, parse_yaml
from innerloop.config.yaml_text import NotReadable, load_text
from innerloop.recipes import recipe

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 12)}]}}\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "more than 100000 values"),
        (MERGED, "more than 100000 values"),
        ("a: &a [*a]", "names nothing that came before"),
        ("a: *nothing", "names nothing that came before"),
        ("[" * 3000, "nested more than 50 levels"),
        ("{a: " * 3000, "nested more than 50 levels"),
        ("- " * 3000, "nested more than 50 levels"),
        ("lr: !!bool x", "the tag"),
        ("lr: !!timestamp x", "the tag"),
        ("lr: !!int ''", "the tag"),
        ("lr: !!python/object/apply:os.system [id]", "the tag"),
        ("lr: !mine 3", "the tag"),
        ("lr: ! 3", "the tag"),
        ("lr: " + "9" * 400, "a number of 400 characters"),
        ("lr: 1." + "9" * 5000, "a number of 5002 characters"),
        ("lr: 0x_", "not YAML"),
        ("lr: 1\nlr: 2", "line 2: lr is given twice"),
        ("a: [", "not YAML"),
        ("a: \x00", "not YAML"),
        ("? [1, 2]\n: 3", "not YAML"),
        ("x" * 1_000_001, "1000001 characters"),
    ],
)
def test_refused_in_one_line(text: str, said: str) -> None:
    began = time.perf_counter()
    with pytest.raises(NotReadable) as error:
        load_text(text)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert time.perf_counter() - began < 10


def test_what_people_write_is_read() -> None:
    text = "shared: &s {lr: 0.1, steps: 5}\nmethod:\n  <<: *s\n  steps: 3\nwhen: 2020-13-45\n"
    assert load_text(text) == {
        "shared": {"lr": 0.1, "steps": 5},
        "method": {"lr": 0.1, "steps": 3},
        "when": "2020-13-45",  # no date: settings have none
    }
    assert load_text("[1, 2.5, .inf, ~, yes, 'no', 0x1F]") == [
        *(1, 2.5, float("inf"), None, True, "no", 31)
    ]


@pytest.mark.parametrize(
    "value",
    [
        *(
            "!!bool x",
            "!!timestamp x",
            "!!int ''",
            "9" * 400,
            "[" * 3000,
            "[1",
            "{",
            "*a",
            "&a",
            "%",
        ),
        *("0x_", "2020-13-45", "1e999", ".nan", "'", "null", "", "- 1", "a: b", "true", "[]", "{}"),
        *("1_", "1:99", "@", "`", "\x1b[2J", "\udc80", "-", "?", "!", "0b", "190:20:30", ".", "+"),
    ],
)
@pytest.mark.parametrize("key", ["train.lr", "train.workers", "model.hidden", "method", "data.x"])
def test_nothing_typed_escapes(key: str, value: str) -> None:
    """Every text for every kind of setting is a value or one ConfigError, never another error."""
    try:
        recipe("sine-5shot/maml").override([(key, value)])
    except ConfigError as error:
        assert all("\n" not in problem and len(problem) < 700 for problem in error.problems)


@pytest.mark.parametrize("text", ["method: [1]", "method: {kind: [1]}", "data: 3", "name: {a: b}"])
def test_sections_of_the_wrong_shape(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "x.yaml")
    key = text.partition(":")[0]
    assert any(problem.startswith(key) for problem in error.value.problems)


def test_files_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_yaml(path)
    path.write_text(BOMB)
    with pytest.raises(ConfigError, match=r"x\.yaml:\n  line 5: more than 100000 values"):
        load_yaml(path)

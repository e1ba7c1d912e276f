"""A published data set stands once, at its reader: the tables elsewhere are read from there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from PIL import Image

from innerloop.config import Published
from innerloop.data.pool import ClassPool
from innerloop.data.published import Dataset
from innerloop.data.readers import DATASETS, registry
from innerloop.recipes import PUBLISHED, RECIPES, cite

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
FACTS = {
    "name": "tiny",
    "title": "Tiny",
    "papers": ("finn2017maml",),
    "side": 2,
    "classes": {"train": 2, "validation": 1, "test": 1},
    "images": 8,
    "files": "nothing",
    "origin": "nobody",
}


@pytest.mark.parametrize("name", DATASETS)
def test_every_table_has_every_data_set(name):
    facts = DATASETS[name].facts
    assert facts.name == name
    assert cite.DATA[name] == facts.papers and set(facts.papers) <= set(cite.entries())
    assert PUBLISHED[name] == facts.title
    assert {f"{name}-5w{shot}s/{kind}" for shot in (1, 5) for kind in ("maml", "deml")} <= {
        *RECIPES
    }
    assert name in get_args(Dataset)
    assert Published(dataset=name).dataset == name
    counts = " / ".join(map(str, facts.classes.values()))
    row = rf"^\| `{name}`[^|]*\| {counts} \| {facts.side} \| "
    assert re.search(row, PAGE, re.MULTILINE), f"docs/data.md needs a row {row}"


def test_the_decorator_registers_checks_and_refuses_a_second_of_the_name(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "DATASETS", {})
    facts = registry.PublishedSet(**FACTS)
    given = []

    @registry.dataset(facts)
    def read_tiny(folder, split, *, times=1):
        """Doc."""
        given.append((folder, split, times))
        images = torch.zeros(2 * times, 1, 2, 2, dtype=torch.uint8)
        return facts.pool(split, images, torch.tensor([0, 1] * times), ["a", "b"], folder)

    assert list(registry.DATASETS.items()) == [("tiny", (facts, read_tiny))]
    assert read_tiny.__doc__ == "Doc."
    monkeypatch.setenv("HOME", str(tmp_path))
    assert isinstance(read_tiny("~/x", "train", times=2), ClassPool)
    assert given == [(tmp_path / "x", "train", 2)]
    with pytest.raises(ValueError, match="split must be one of train, validation, test, got 'val'"):
        read_tiny(tmp_path, "val")
    with pytest.raises(ValueError, match="expected 1 test classes of tiny, found 2"):
        read_tiny(tmp_path, "test")
    with pytest.raises(ValueError, match="'tiny' is registered already"):
        registry.dataset(facts)


def section(language: str) -> str:
    """The block of this language under "Adding a data set"."""
    text = PAGE.partition("### Adding a data set")[2]
    return re.search(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]


def test_the_worked_example_is_the_whole_diff(tmp_path):
    """docs/data.md's example, applied to a copy of the package: every table has the data set."""
    copy = tmp_path / "src"
    shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    package = copy / "innerloop"
    reader = section("python").replace("from innerloop.data.readers.", "from .")
    reader = reader.replace("from innerloop.data.", "from ..")
    (package / "data" / "readers" / "flowers.py").write_text(reader, encoding="utf-8")
    with (package / "recipes" / "citations.bib").open("a", encoding="utf-8") as file:
        file.write("\n" + section("bibtex"))
    assert section("diff").splitlines()[-1].startswith("+| `flowers` | 71 / 15 / 16 | 84 |")
    for split, count in (("train", 71), ("val", 15), ("test", 16)):
        for k in range(count):
            place = tmp_path / "flowers" / split / f"{split}{k}"
            place.mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (4, 4), (k, i, 0)).save(place / f"{i}.jpg")
    run = (
        "import innerloop; print(innerloop.__file__)\n"
        "from innerloop.data.published import published\n"
        "from innerloop.recipes import cite, recipe\n"
        "import torch\n"
        "for kind in ('maml', 'deml'): print(recipe(f'flowers-5w1s/{kind}').data.dataset)\n"
        "keys = cite.cited(method='scratch', model='mlp', data='flowers', optimizer='sgd')\n"
        "print(*keys, set(keys) <= set(cite.entries()))\n"
        f"test = published('flowers', {str(tmp_path / 'flowers')!r}, queries=1).test\n"
        "print(tuple(test.sample(torch.Generator(), 2).support.x.shape))\n"
        "print(test.describe()['source'] + ';', test.describe()['split'])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", run],
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        str(package / "__init__.py"),
        "flowers",
        "flowers",
        "nilsback2008flowers triantafillou2020metadataset True",
        "(2, 5, 3, 84, 84)",
        "flowers, partial: 204 of 8189 images; test of Triantafillou et al. 2020",
    ]

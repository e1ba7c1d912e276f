"""Every piece that a run can name has its papers, and every paper is a whole entry."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from innerloop.config import METHODS, MODELS, SOURCES
from innerloop.config.sources import Published
from innerloop.data.images.omniglot import Split
from innerloop.data.published import Dataset
from innerloop.recipes import cite

ENTRIES = cite.entries()
TABLES = (cite.METHODS, cite.MODELS, cite.DATA, cite.SPLITS, cite.OPTIMIZERS, cite.OUTER)


def test_every_kind_of_piece_is_in_a_table() -> None:
    assert set(cite.METHODS) == set(METHODS)
    assert set(cite.MODELS) == set(MODELS)
    assert set(cite.SPLITS) == set(get_args(Split))
    assert set(cite.DATA) == (set(SOURCES) - {Published.kind}) | set(get_args(Dataset))
    for kind in METHODS:
        assert cite.METHODS[kind] or kind == "scratch"


def test_every_key_has_an_entry_and_every_entry_a_use() -> None:
    used = {key for table in TABLES for keys in table.values() for key in keys}
    assert used == set(ENTRIES)


@pytest.mark.parametrize("key", sorted(ENTRIES))
def test_entries_are_whole(key: str) -> None:
    entry = ENTRIES[key]
    kind, braced = entry.partition("{")[::2]
    place = {"@inproceedings": "booktitle", "@article": "journal", "@techreport": "institution"}
    assert kind in (*place, "@misc")
    assert entry.isascii() and entry.endswith("\n}")
    assert entry.count("{") == entry.count("}")
    fields = dict(re.findall(r"^  (\w+) = \{(.+)\},$", entry, re.MULTILINE))
    assert {"author", "title", "year"} <= set(fields)
    assert key.startswith(re.split(r"[ ,]", fields["author"].partition(" and ")[0])[0].lower()) or (
        key.startswith(fields["author"].partition(" and ")[0].split()[-1].lower())
    )
    assert fields["year"] in key
    assert kind == "@misc" or place[kind] in fields
    assert kind != "@misc" or "eprint" in fields
    assert re.fullmatch(r"\d{4}\.\d{4,5}", fields.get("eprint", "0000.00000"))
    assert braced.startswith(f"{key},")


def test_papers_of_a_run_come_once_and_the_methods_first() -> None:
    keys = cite.cited(method="maml", model="conv4", data="omniglot", optimizer="adam")
    assert keys == ("finn2017maml", "lake2015omniglot", "kingma2015adam")
    keys = cite.cited(method="maml", model="mlp", data="sine", optimizer="sgd", outer=["robust_lr"])
    assert keys == ("finn2017maml", "collins2020trmaml")
    outer = ["outer_hyper"]
    keys = cite.cited(method="deml", model="mlp", data="cub", optimizer="sgd", outer=outer)
    assert keys[:2] == ("zhou2018deml", "li2017metasgd"), "its learner is Meta-SGD"
    assert keys[2:4] == ("behl2019alpha", "baydin2018hypergradient")
    assert keys[4:] == ("wah2011cub", "chen2019closer"), "the photographs and their split"
    keys = cite.cited(
        method="protonet", model="conv4", data="omniglot", split="vinyals", optimizer="sgd"
    )
    assert keys[-2:] == ("lake2015omniglot", "vinyals2016matching")
    assert not cite.cited(method="scratch", model="mlp", data="folder", optimizer="sgd")


def test_an_unknown_piece_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no paper is known for method 'magic'; known: scratch"):
        cite.cited(method="magic", model="mlp", data="sine", optimizer="sgd")

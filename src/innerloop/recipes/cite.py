"""Which papers the pieces of a run come from, as BibTeX; the entries are in `citations.bib`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import resources

from .. import methods
from ..data.readers import DATASETS

METHODS: dict[str, tuple[str, ...]] = {
    **{name: method.papers for name, method in methods.METHODS.items()},
    "pretrained": ("finn2017maml",),
}
"""By the method's kind; training from scratch is nobody's."""

MODELS: dict[str, tuple[str, ...]] = {
    "mlp": (),
    "conv4": ("finn2017maml",),
    "resnet12": ("lee2019metaoptnet", "ghiasi2018dropblock"),
    "wide_resnet": ("zagoruyko2016wide",),
    "r2d2_net": ("bertinetto2019r2d2",),
}

DATA: dict[str, tuple[str, ...]] = {
    "sine": ("finn2017maml",),
    "sine_groups": ("collins2020trmaml",),
    "linear_gaussian": (),
    "glyphs": (),
    "folder": (),
    "prepared": (),
    "omniglot": ("lake2015omniglot",),
    **{name: found.facts.papers for name, found in DATASETS.items()},
}
"""By the kind of the source, or the name of the published data set; its split included."""

SPLITS: dict[str, tuple[str, ...]] = {
    "maml": ("finn2017maml",),
    "vinyals": ("vinyals2016matching",),
    "background": ("lake2015omniglot",),
}
"""By the split of Omniglot, which has several."""

OPTIMIZERS: dict[str, tuple[str, ...]] = {"adam": ("kingma2015adam",), "sgd": ()}

OUTER: dict[str, tuple[str, ...]] = {
    "outer_hyper": ("behl2019alpha", "baydin2018hypergradient"),
    "robust_lr": ("collins2020trmaml",),
}
"""By the setting of the outer loop that switches a method of its own on."""


def cited(
    *,
    method: str,
    model: str,
    data: str,
    optimizer: str,
    split: str | None = None,
    outer: Iterable[str] = (),
) -> tuple[str, ...]:
    """The keys of the papers of these pieces, each once, the method's first.

    Raises:
        ValueError: a piece that the tables do not know.
    """
    keys: list[str] = []
    for piece, kind, table in (
        ("method", method, METHODS),
        *(("setting", name, OUTER) for name in outer),
        ("model", model, MODELS),
        ("data", data, DATA),
        *([] if split is None else [("split", split, SPLITS)]),
        ("optimizer", optimizer, OPTIMIZERS),
    ):
        if kind not in table:
            raise ValueError(f"no paper is known for {piece} {kind!r}; known: {', '.join(table)}")
        keys += table[kind]
    return tuple(dict.fromkeys(keys))


def entries() -> dict[str, str]:
    """Every entry of `citations.bib` by its key."""
    text = resources.files(__package__).joinpath("citations.bib").read_text(encoding="utf-8")
    found = [entry.strip() for entry in text.split("\n\n") if entry.strip()]
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in found}


def label(key: str) -> str:
    """An entry in short, as "Finn et al. 2017" or "Park & Oliva 2019"."""
    entry = entries()[key]
    fields = dict(re.findall(r"^\s*(author|year)\s*=\s*\{(.+?)\},?\s*$", entry, re.MULTILINE))
    names = [name.strip().split(" ")[-1] for name in fields["author"].split(" and ")]
    who = f"{names[0]} et al." if len(names) > 2 else " & ".join(names)
    return f"{who} {fields['year']}"

"""Which papers the pieces of a run come from, as BibTeX; the entries are in `citations.bib`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources

from ..data.readers import DATASETS

METHODS: dict[str, tuple[str, ...]] = {
    "maml": ("finn2017maml",),
    "fomaml": ("finn2017maml",),
    "reptile": ("nichol2018reptile",),
    "imaml": ("rajeswaran2019imaml",),
    "anil": ("raghu2020anil",),
    "nil": ("raghu2020anil",),
    "boil": ("oh2021boil",),
    "meta_sgd": ("li2017metasgd",),
    "alpha_maml": ("behl2019alpha",),
    "deml": ("zhou2018deml", "li2017metasgd"),
    "cavia": ("zintgraf2019cavia",),
    "maml_plus_plus": ("antoniou2019mamlpp",),
    "bias_transformation": ("finn2017imitation",),
    "r2d2": ("bertinetto2019r2d2",),
    "lrd2": ("bertinetto2019r2d2",),
    "metaoptnet": ("lee2019metaoptnet", "amos2017optnet"),
    "meta_lstm": ("ravi2017lstm",),
    "es_maml": ("song2020esmaml",),
    "dropgrad": ("tseng2020dropgrad",),
    "sign_maml": ("fan2021signmaml",),
    "meta_curvature": ("park2019metacurvature",),
    "zeroing": ("kao2022contrastive",),
    "proto_maml": ("triantafillou2020metadataset",),
    "bootstrapped": ("flennerhag2022bootstrapped",),
    "hf_maml": ("fallah2020hfmaml",),
    "matching": ("vinyals2016matching",),
    "protonet": ("snell2017protonet",),
    "pretrained": ("finn2017maml",),
    "scratch": (),
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

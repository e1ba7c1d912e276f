"""Runs by name, after the rows of the papers' tables: `recipe("omniglot-5w1s/maml")`.

A recipe is a function that returns a `RunConfig`; every number that is not a default of a config
section has its source in the function that sets it. Inner rates of MAML on images are the published
ones times the number of classes, because the authors sum the support loss over classes and we
average it (see `innerloop.methods.maml`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ..config import RunConfig
from ..config.schema import nearest
from ..data.readers import DATASETS
from . import outer
from .images import folder, glyphs, published
from .omniglot import omniglot
from .omniglot_quick import QUICK, quick_omniglot
from .sine import sine, sine_frequency

MESSAGE = "see all of them with: innerloop recipes"


@dataclass(frozen=True)
class Recipe:
    """A named run: `about` in a few words, `paper` the row it is named after."""

    name: str
    about: str
    paper: str
    build: Callable[[], RunConfig]


def recipe(name: str) -> RunConfig:
    """The run of this name.

    Raises:
        ValueError: there is no such recipe; names the nearest one.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; {nearest(name, RECIPES)}; {MESSAGE}")
    return RECIPES[name].build()


def _registry() -> dict[str, Recipe]:
    """Every recipe, in the order of the table that `innerloop recipes` prints."""
    gradient = ("maml", "fomaml", "reptile", "imaml", "anil", "boil", "meta_sgd")
    images = (*gradient, "protonet", "pretrained", "scratch")
    curves = (
        *("maml", "fomaml", "reptile", "imaml", "anil", "meta_sgd", "cavia"),
        *("bias_transformation", "meta_lstm", "pretrained", "scratch"),
    )
    rows: list[Recipe] = []

    def add(
        family: str, kinds: tuple[str, ...], about: str, make: Callable[[str], RunConfig]
    ) -> None:
        for kind in kinds:
            rows.append(Recipe(f"{family}/{kind}", about, PAPERS[kind], partial(make, kind)))
        for kind in outer.KINDS.get(family.rpartition("-")[0], ()):
            build = partial(outer.run, family, kind)
            rows.append(Recipe(f"{family}/{kind}", about, PAPERS[kind], build))

    for shot in (5, 10):
        add(f"sine-{shot}shot", curves, f"sine waves from {shot} points", partial(sine, shot))
    for shot in (5, 10, 20):
        add(
            f"sine-frequency-{shot}shot",
            ("maml", "meta_sgd"),
            f"sine waves of any frequency from {shot} points",
            partial(sine_frequency, shot),
        )
    add("glyphs-5w1s", images, "characters of unseen scripts, 2.5 minutes", glyphs)
    for way, shot in ((5, 1), (5, 5), (20, 1), (20, 5)):
        add(
            f"omniglot-{way}w{shot}s",
            (*images, "maml_plus_plus", "r2d2", "metaoptnet"),
            f"Omniglot, {way}-way {shot}-shot",
            partial(omniglot, way, shot),
        )
    for way in (5, 20):
        add(
            f"omniglot-{way}w1s-quick",
            tuple(QUICK),
            f"Omniglot {way}-way 1-shot, 37 minutes on two cores",
            partial(quick_omniglot, way),
        )
    for shot in (1, 5):
        add(
            f"folder-5w{shot}s",
            images,
            f"a folder of images, 5-way {shot}-shot",
            partial(folder, 5, shot),
        )
    for dataset, title in PUBLISHED.items():
        for shot in (1, 5):
            add(
                f"{dataset}-5w{shot}s",
                images,
                f"{title}, 5-way {shot}-shot",
                partial(published, dataset, 5, shot),
            )
    return {row.name: row for row in rows}


PUBLISHED = {name: found.facts.title for name, found in DATASETS.items()}
PAPERS = {
    "maml": "Finn et al. 2017",
    "fomaml": "Finn et al. 2017",
    "reptile": "Nichol et al. 2018",
    "imaml": "Rajeswaran et al. 2019",
    "anil": "Raghu et al. 2020",
    "boil": "Oh et al. 2021",
    "meta_sgd": "Li et al. 2017",
    "cavia": "Zintgraf et al. 2019",
    "bias_transformation": "Finn et al. 2017 (one-shot imitation)",
    "meta_lstm": "Ravi & Larochelle 2017",
    "maml_plus_plus": "Antoniou et al. 2019",
    "alpha_maml": "Behl et al. 2019",
    "tr_maml": "Collins et al. 2020",
    "deml": "Zhou et al. 2018",
    "dropgrad": "Tseng et al. 2020",
    "sign_maml": "Fan et al. 2021",
    "meta_curvature": "Park & Oliva 2019",
    "zeroing": "Kao et al. 2022",
    "proto_maml": "Triantafillou et al. 2020",
    "bootstrapped": "Flennerhag et al. 2022",
    "hf_maml": "Fallah et al. 2020",
    "es_maml": "Song et al. 2020",
    "r2d2": "Bertinetto et al. 2019",
    "lrd2": "Bertinetto et al. 2019",
    "metaoptnet": "Lee et al. 2019",
    "matching": "Vinyals et al. 2016",
    "protonet": "Snell et al. 2017",
    "pretrained": "baseline of Finn et al. 2017",
    "scratch": "baseline: random weights",
}
RECIPES = _registry()

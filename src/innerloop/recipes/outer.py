"""Runs that change the outer loop: learned rates, weighted tasks, a discriminator beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..config import METHODS, Conv4, Evaluate, Omniglot, RunConfig, SineGroups
from ..config import TestTasks as Test
from ..data.readers import DATASETS
from ..train.settings import Settings
from .images import folder, glyphs, published
from .omniglot import omniglot
from .sine import sine

KINDS: dict[str, tuple[str, ...]] = {
    "sine": ("alpha_maml", "tr_maml"),
    "omniglot": ("alpha_maml", "tr_maml", "deml"),
    **dict.fromkeys(
        ("glyphs", "folder", *DATASETS),
        ("deml",),
    ),
}
"""What there is for the tasks of a family of recipes, such as `sine-5shot`."""

HYPER_RATES: dict[str, Any] = {
    "outer_hyper": 1e-5,
    "normalised_hyper": True,
    "inner_hyper": 1e-2,
}
"""Of Alpha MAML on Omniglot."""


def run(family: str, kind: str) -> RunConfig:
    """The run of this kind on the tasks of `family`."""
    tasks, _, size = family.rpartition("-")
    way, _, shot = size.removesuffix("s").rpartition("w")
    if tasks == "sine":
        return curves(int(size.removesuffix("shot")), kind)
    if tasks == "omniglot":
        return characters(int(way), int(shot), kind)
    return pictures(tasks, int(shot), kind)


def curves(shot: int, kind: str) -> RunConfig:
    """Sine waves from `shot` points, otherwise as for MAML.

    Alpha MAML (Behl et al. 2019) has no sine row and its hyper-rates are not confirmed: ours are
    1e-4 on the normalised product for the outer rate and 1e-4 for the inner one.

    TR-MAML (Collins et al. 2020) and code: 100 bins of amplitude, five of them large, `shot`
    support and query points, 25 tasks, Adam 1e-3, inner rate 0.001, 70 000 iterations, tested after
    one step on amplitudes of any size. Its weights move by 1e-5 (10-shot: 2e-5), which is ours
    times the number of groups over that of tasks: 4.
    """
    base = sine(shot, "maml")
    steps = base.method.steps
    if kind == "alpha_maml":
        return replace(
            base,
            name=f"sine-{shot}shot/alpha_maml",
            method=METHODS["alpha_maml"](lr=base.method.lr, steps=steps, loss="mse"),
            train=replace(base.train, outer_hyper=1e-4, normalised_hyper=True, inner_hyper=1e-4),
        )
    return replace(
        base,
        name=f"sine-{shot}shot/tr_maml",
        data=SineGroups(shot=shot, queries=shot),
        test=Test(),
        train=replace(base.train, robust_lr=(1e-5 if shot == 5 else 2e-5) / 4),
        evaluate=Evaluate(tasks=600, steps=steps),
    )


def characters(way: int, shot: int, kind: str) -> RunConfig:
    """Omniglot.

    Alpha MAML (Behl et al. 2019): MAML's network and settings; its hyper-rates are not confirmed,
    ours are 1e-5 on the normalised product for the outer rate and 1e-2 for the inner one.

    TR-MAML (Collins et al. 2020) and code: tasks within one of 25 background alphabets, tested on
    the 20 evaluation alphabets; one step at 0.1, 8 tasks with 10 queries per class, Adam 1e-3
    annealed by a cosine, 60 000 iterations, max-pooled Conv4-64; its weights move by 2e-5, ours
    times 25 / 8. The authors choose their 25 and 20 alphabets otherwise.

    DEML (Zhou et al. 2018) has no Omniglot row: Meta-SGD's budget, the discriminator on the
    training characters, lambda 1.
    """
    name = f"omniglot-{way}w{shot}s/{kind}"
    if kind == "alpha_maml":
        base = omniglot(way, shot, "maml")
        return replace(
            base,
            name=name,
            method=METHODS["alpha_maml"](lr=base.method.lr, steps=base.method.steps),
            train=replace(base.train, **HYPER_RATES),
        )
    if kind == "deml":
        base = omniglot(way, shot, "meta_sgd")
        return replace(base, name=name, method=METHODS["deml"](lr=base.method.lr))
    return RunConfig(
        name=name,
        data=Omniglot(
            way=way, shot=shot, queries=10, split="background", within_alphabet=True, invert=False
        ),
        test=Test(queries=10),
        model=Conv4(pool="max", features="flatten"),
        method=METHODS["maml"](lr=0.1, steps=1),
        train=Settings(iterations=60_000, meta_batch=8, schedule="cosine", robust_lr=2e-5 * 8 / 25),
        evaluate=Evaluate(tasks=600, steps=1),
    )


def pictures(family: str, shot: int, kind: str) -> RunConfig:
    """DEML on glyphs, a folder or a published data set.

    Zhou et al. 2018 teach a ResNet-50 by 200 external classes of ImageNet; rates, lambda and batch
    sizes are not known. Ours: the network and budget of Meta-SGD there, the discriminator on the
    training classes (external ones: --auxiliary.root DIR), lambda 1, and a head that adapts in one
    step from a rate of 0.1, or 0.01 where it has 800 inputs.
    """
    if family == "glyphs":
        base = glyphs("meta_sgd")
    elif family == "folder":
        base = folder(5, shot, "meta_sgd")
    else:
        base = published(family, 5, shot, "meta_sgd")
    return replace(
        base,
        name=base.name.replace("meta_sgd", kind),
        method=METHODS["deml"](lr=0.1 if family == "glyphs" else 0.01),
    )

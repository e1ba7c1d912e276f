"""Labelled examples beside the tasks of a run, for methods with a discriminator."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.bounds import Positive
from ..data.images.episodes import Episodes
from ..data.prepared import open_prepared
from ..data.source import Source, Splits
from ..train.baseline import AllClasses


@dataclass(frozen=True, kw_only=True)
class Auxiliary:
    """What the discriminator of `method.kind=deml` learns from beside the tasks.

    images: about how many per outer step, of as many classes as possible, at least two of each.
    root: a folder made by `innerloop prepare IMAGES`, whose classes are no test classes; empty: the
        classes of the training tasks.
    """

    images: Positive = 64
    root: str = ""


def labelled(splits: Splits, settings: Auxiliary) -> Source:
    """Batches of images with their class in the whole pool, augmented as the training tasks are.

    Raises ValueError for tasks without lasting classes, for external images of another shape, and
    for external classes that validation or test has too.
    """
    train = splits.train
    if not isinstance(train, Episodes):
        raise ValueError(
            f"a discriminator needs classes that last beyond a task; {type(train).__name__} has "
            "none. Use a source of images, such as data.kind=glyphs"
        )
    pool, name = train.pool, train.name
    if settings.root:
        held = open_prepared(settings.root)
        pool, name = held.pool, held.name
        if pool.x_shape != train.pool.x_shape:
            raise ValueError(
                f"expected images of shape {train.pool.x_shape} in {settings.root}, as in the "
                f"tasks, got {pool.x_shape}; prepare them again with --size"
            )
        _keep_apart(pool.class_names, splits, settings.root)
    each = min(max(2, settings.images // pool.n_classes), int(pool.counts.min()))
    return AllClasses(
        train.replace(
            pool=pool,
            way=min(pool.n_classes, max(2, settings.images // each)),
            shot=each - 1,
            queries=1,
            within_group=False,
            name=name,
            split="labelled",
        )
    )


def _keep_apart(names: list[str], splits: Splits, root: str) -> None:
    for source in (splits.validation, splits.test):
        if isinstance(source, Episodes):
            both = sorted(set(names) & set(source.pool.class_names))
            if both:
                raise ValueError(
                    f"{len(both)} classes of {root} are validation or test classes as well "
                    f"({', '.join(both[:5])}): expected other ones in auxiliary.root"
                )

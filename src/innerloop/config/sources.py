"""Where the tasks of a run come from, as config sections."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

import torch

from ..core.bounds import Bound, Positive
from ..data.images.episodes import Episodes
from ..data.images.folder import folder
from ..data.images.glyphs import glyphs
from ..data.images.omniglot import omniglot
from ..data.prepared import prepared
from ..data.published import cub, published
from ..data.source import Source, Splits
from ..data.splits import Skipped
from ..data.values.sine_groups import sine_groups
from ..data.values.synthetic import LinearGaussian as LinearGaussianSource
from ..data.values.synthetic import Sine as SineSource
from . import own_pieces
from .own import OwnData
from .signature import section


def linear_gaussian(
    *,
    dimension: int = 4,
    spread: float = 1.0,
    noise: float = 0.0,
    shot: int = 5,
    queries: int = 15,
    device: torch.device | str = "cpu",
) -> Source:
    """Linear regression tasks around the mean weights (1, ..., 1)."""
    mean = torch.ones(dimension)
    return LinearGaussianSource(
        mean=mean, spread=spread, noise=noise, shot=shot, queries=queries, device=device
    )


log = logging.getLogger("innerloop")

NO_FILES: Mapping[str, str] = MappingProxyType({})

_BUILT = ("device", "dtype", "skipped", "cache")

Sine = section("sine", SineSource, given=_BUILT)
SineGroups = section("sine_groups", sine_groups, given=_BUILT)
LinearGaussian = section("linear_gaussian", linear_gaussian, given=_BUILT)
Glyphs = section("glyphs", glyphs, given=_BUILT)
Omniglot = section("omniglot", omniglot, given=_BUILT)
Folder = section("folder", folder, given=_BUILT)
Prepared = section("prepared", prepared, given=_BUILT)
Published = section("published", published, given=_BUILT)
Cub = section("cub", cub, given=_BUILT)

SOURCES: dict[str, Any] = {
    s.kind: s
    for s in (Sine, SineGroups, LinearGaussian, Glyphs, Omniglot, Folder, Prepared, Published, Cub)
}


@dataclass(frozen=True, kw_only=True)
class TestTasks:
    """How validation and test tasks differ from training tasks; null means that they do not."""

    __test__ = False  # not a test case, whatever its name says

    way: Annotated[int, Bound(low=2)] | None = None
    shot: Positive | None = None
    queries: Positive | None = None


def build(
    settings: Any,
    test: TestTasks,
    device: torch.device | str,
    digests: Mapping[str, str] = NO_FILES,
) -> Splits:
    """The sources of a run, with the sizes of `test` in validation and test.

    `digests` are those that the run has kept of its own files.
    """
    changes = {k: v for k, v in dataclasses.asdict(test).items() if v is not None}
    if isinstance(settings, OwnData):
        found = own_pieces.splits(settings.place, device, digests)
        return _resized(found, test, settings) if changes else found
    skipped = Skipped()
    rest = {"skipped": skipped} if isinstance(settings, (Folder, Prepared)) else {}
    way = getattr(settings, "way", 0)
    if test.way is not None and test.way < way:
        # Validation classes may be too few for the way of training: miniImageNet has 16 of them.
        settings = dataclasses.replace(settings, way=test.way)
    built = settings.call(device=device, **rest)
    for line in skipped.lines():
        log.warning(line)
    splits = Splits(built, built, built) if isinstance(built, Source) else built
    if not changes:
        return splits
    if isinstance(splits.test, Episodes):
        resized = _resized(splits, test, settings)
        if way != settings.way and isinstance(splits.train, Episodes):
            return dataclasses.replace(resized, train=splits.train.replace(way=way))
        return resized
    if "way" in changes:
        raise ValueError(f"test.way has no meaning for data.kind={settings.kind}; remove it")
    other = dataclasses.replace(settings, **changes).call(device=device)
    if isinstance(other, Source):
        return Splits(splits.train, other, other)
    return Splits(splits.train, other.validation, other.test)


def _resized(splits: Splits, sizes: TestTasks, settings: Any) -> Splits:
    """The same sources with other sizes in validation and test."""
    validation, test = splits.validation, splits.test
    if not (isinstance(validation, Episodes) and isinstance(test, Episodes)):
        given = next(k for k, v in dataclasses.asdict(sizes).items() if v is not None)
        raise ValueError(
            f"test.{given} has no meaning for data.kind={settings.kind}: its tasks "
            "have the sizes that they have; remove it"
        )
    way, shot, queries = sizes.way, sizes.shot, sizes.queries
    return dataclasses.replace(
        splits,
        validation=validation.replace(way=way, shot=shot, queries=queries),
        test=test.replace(way=way, shot=shot, queries=queries),
    )


def ink_is_one(settings: Any) -> bool:
    """Whether these images are negatives of dark ink on light paper: ink 1, paper 0."""
    return isinstance(settings, Glyphs) or bool(getattr(settings, "invert", False))

"""The random numbers that a model draws: from torch, numpy, Python, or a generator of its own."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..core import streams


def state(device: torch.device) -> Tensor:
    """The state of torch's global generator that `device` draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def foreign_state(generators: list[torch.Generator]) -> list[Any]:
    """The states of Python's and numpy's global generators, and of these ones of torch."""
    numpy = sys.modules.get("numpy")
    drawn = None if numpy is None else numpy.random.get_state(legacy=True)
    told = None if drawn is None else (drawn[1].tobytes(), *drawn[2:])
    own = [bytes(g.get_state().cpu().numpy().tobytes()) for g in generators]
    return [random.getstate(), told, *own]


@contextlib.contextmanager
def replay(
    stream: str, device: torch.device, generators: list[torch.Generator], *, foreign: bool
) -> Iterator[None]:
    """Within the block every draw comes from the stream of this name: the same numbers each time.

    All generators are put back on leaving. `foreign` says whether there are any but torch's.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(streams.replay("model", stream, device=device))
        if foreign:
            stack.enter_context(_foreign(stream, generators))
        yield


@contextlib.contextmanager
def _foreign(stream: str, generators: list[torch.Generator]) -> Iterator[None]:
    seed = streams.derive(streams.current(), "model", stream, "foreign")
    numpy = sys.modules.get("numpy")
    python = random.getstate()
    legacy = None if numpy is None else numpy.random.get_state()
    own = [g.get_state() for g in generators]
    try:
        random.seed(seed)
        if numpy is not None:
            numpy.random.seed(seed % 2**32)
        for position, g in enumerate(generators):
            g.manual_seed(seed + position)
        yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(legacy)
        for g, was in zip(generators, own, strict=True):
            g.set_state(was)

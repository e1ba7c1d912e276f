"""Named random streams: every random draw is a function of a seed and the names of its purpose.

A stream does not depend on what was drawn before it, so a run can be resumed at any step, a step
can be replayed, and tasks split into chunks or over ranks see the numbers they would have seen.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch

_SEED: ContextVar[int] = ContextVar("innerloop_seed", default=0)


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed that is a hash of `seed` and `names`; distinct names give unrelated streams."""
    text = "/".join([str(int(seed)), *map(str, names)]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded from `(seed, *names)`, for instance `generator(0, "train", step)`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


@contextlib.contextmanager
def common(seed: int) -> Iterator[None]:
    """Within the block, every `replay` draws from streams of this seed (common random numbers)."""
    token = _SEED.set(seed)
    try:
        yield
    finally:
        _SEED.reset(token)


def current() -> int:
    """The seed of the innermost `common` block."""
    return _SEED.get()


@contextlib.contextmanager
def replay(*names: str | int, device: torch.device) -> Iterator[None]:
    """Within the block, torch's global generators stand at the start of the named stream.

    Entering the block twice draws the same numbers twice: that is what makes a dropout mask the
    same each time a gradient is evaluated again. The generators are put back on leaving.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(current(), *names))
        yield

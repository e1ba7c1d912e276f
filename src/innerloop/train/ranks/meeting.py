"""Where the ranks of one attempt find each other: a store that no earlier attempt has written to.

After the loss of a rank torchrun starts all of them again with the same store, which still holds
the addresses of the dead; it numbers its attempts, but on each machine differently. So the first
rank makes a new name, and gives it only to ranks that have said hello in this attempt.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

_PAUSE = 0.01
"""Seconds between two looks for those who have said hello."""


def meet(rank: int, size: int, patience: timedelta) -> dist.Store:
    """The store of the `size` processes that were started together (environment as torchrun's).

    Raises RuntimeError when they do not all come within `patience`.
    """
    store, _, _ = next(rendezvous("env://", timeout=patience))
    store = dist.PrefixStore("innerloop", store)
    own = uuid.uuid4().hex
    if rank == 0:
        _invite(store, own, size, patience)
        return dist.PrefixStore(own, store)
    store.set(f"hello/{rank}", own)
    name = store.get(f"answer/{own}").decode()
    store.add(f"arrived/{name}", 1)
    return dist.PrefixStore(name, store)


def _invite(store: dist.Store, name: str, size: int, patience: timedelta) -> None:
    """Answer every hello with `name`, those of the dead as well, until all others have arrived."""
    answered: dict[int, str] = {}
    deadline = time.monotonic() + patience.total_seconds()
    while (here := store.add(f"arrived/{name}", 0)) < size - 1:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{here + 1} of {size} ranks came within {patience}")
        for rank in range(1, size):
            if not store.check([f"hello/{rank}"]):
                continue
            said = store.get(f"hello/{rank}").decode()
            if answered.get(rank) != said:
                answered[rank] = said
                store.set(f"answer/{said}", name)
        time.sleep(_PAUSE)

"""Peak memory of one call, over what was in use before it."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_memory(run: Callable[[], Any], device: torch.device) -> tuple[int, str]:
    """Bytes that `run()` needed at most beyond those in use before, and how they were measured.

    On CUDA the allocator counts. On Linux the peak of the resident set is reset before the call;
    where that is not allowed, only growth beyond the process's earlier peak is seen.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before, "CUDA allocator"
    _give_back_freed_memory()
    if _reset_peak():
        before = _status("VmRSS")
        run()
        return max(_status("VmHWM") - before, 0), "peak resident set, to 1 MB"
    earlier = process_peak()
    run()
    if earlier is None:
        return 0, "not measured on Windows"
    return (process_peak() or 0) - earlier, "growth of the process's peak"


def process_peak() -> int | None:
    """The largest resident set that this process has had, in bytes; None on Windows."""
    if _STATUS.exists():  # that of `getrusage` begins with the parent's at the fork
        return _status("VmHWM")
    if sys.platform == "win32":
        return None
    import resource  # there is none on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _reset_peak() -> bool:
    """Set VmHWM back to the current resident set; False where the system does not let us."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return _STATUS.exists()


def _status(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{_STATUS} has no {field}")


def _give_back_freed_memory() -> None:
    """Freed pages that the allocator keeps would be reused, and the call would look cheaper."""
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):
            return

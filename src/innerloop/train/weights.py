"""Weights files: safetensors whose header carries a digest of everything in the file.

The header's `digest` is the SHA-256 of the other entries of the header, with sorted keys, and of
the tensors' bytes. It is checked whenever a file is read, so that a damaged file is never taken for
weights. The header itself is sorted: the same weights are the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

FORMAT = "innerloop-checkpoint-2"
WITHOUT_DIGEST = "innerloop-checkpoint-1"
"""What earlier versions wrote: still read, but nothing in it can be checked."""
MOVED = {
    "learner.later.": "learner.scope.later.",
    "learner.penalty.log": "learner.inner.1.lam.log",
    "learner.penalty.": "learner.inner.1.",
    "discriminator.": "objective.discriminator.",
}
"""Parameters of earlier versions that another piece owns now, by the beginning of their names."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, does not belong to the run, or could not be written."""


def write_weights(path: Path, method: nn.Module, facts: Mapping[str, str]) -> None:
    """`method.state_dict()` as a safetensors file; tied weights are stored once per name.

    `facts` go into its header.
    """
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in method.state_dict().items()}
    header, payload = _split(safetensors.torch.save(tensors, {"format": FORMAT, **facts}))
    header["__metadata__"]["digest"] = _digest(header, payload)
    head = _canonical(header)
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.write(payload)
        flush(file)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, and the facts of its header.

    Raises:
        CheckpointError: the file is missing, damaged in any bit, or not one of ours.
    """
    content = read_bytes(path)
    try:
        header, payload = _split(content)
        facts = dict(header.get("__metadata__") or {})
        tensors = safetensors.torch.load(content)
    except Exception as error:  # whatever a parser says of bytes that are not what they were
        raise damaged(path, error) from error
    written = facts.pop("format", None)
    if written not in (FORMAT, WITHOUT_DIGEST):
        raise CheckpointError(f"{path} was not written by innerloop (expected {FORMAT})")
    if written == WITHOUT_DIGEST:
        tensors = {_moved(k): v for k, v in tensors.items()}
    if facts.pop("digest", None) != _digest(header, payload) and written == FORMAT:
        raise CheckpointError(f"{path} is damaged: its bytes are not those that were written")
    return tensors, facts


def _moved(name: str) -> str:
    """The name of today for a parameter of an earlier version."""
    old = next((prefix for prefix in MOVED if name.startswith(prefix)), None)
    return name if old is None else MOVED[old] + name.removeprefix(old)


def load_weights(path: Path, method: nn.Module) -> dict[str, str]:
    """Load a `model.safetensors` into `method`; returns the header's step (and score)."""
    tensors, facts = read_weights(path)
    load_tensors(method, tensors, path)
    return {k: v for k, v in facts.items() if k in ("step", "score")}


def load_tensors(method: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy `tensors` into `method` if names and shapes agree exactly; else change nothing."""
    own = method.state_dict()
    problems = [f"{k}: missing" for k in own.keys() - tensors.keys()]
    problems += [f"{k}: not in this model" for k in tensors.keys() - own.keys()]
    problems += [
        f"{k}: shape {tuple(tensors[k].shape)} where this model has {tuple(own[k].shape)}"
        for k in own.keys() & tensors.keys()
        if tensors[k].shape != own[k].shape
    ]
    if problems:
        shown = [f"  {p}" for p in sorted(problems)[:8]]
        more = [f"  and {len(problems) - 8} more"] if len(problems) > 8 else []
        raise CheckpointError(
            "\n".join([f"{path} belongs to another model or method:", *shown, *more])
        )
    method.load_state_dict(dict(tensors))


def read_bytes(path: Path) -> bytes:
    """The whole file, at once: it may be deleted or replaced meanwhile. Raises CheckpointError."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except OSError as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> CheckpointError:
    """The error for a file that its parser cannot make sense of."""
    return CheckpointError(f"{path} is damaged or truncated ({first_line(error)})")


def first_line(error: Exception) -> str:
    """What an error says, short enough for a message of ours."""
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else repr(error)


def flush(file: Any) -> None:
    """Until the bytes are on the disk."""
    file.flush()
    os.fsync(file.fileno())


def _split(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header, and the bytes of the tensors."""
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start].decode()), memoryview(content)[start:]


def _digest(header: Mapping[str, Any], payload: memoryview) -> str:
    facts = {k: v for k, v in header.get("__metadata__", {}).items() if k != "digest"}
    found = hashlib.sha256(_canonical({**header, "__metadata__": facts}))
    found.update(payload)
    return found.hexdigest()


def _canonical(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()

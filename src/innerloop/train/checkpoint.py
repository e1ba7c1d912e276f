"""Checkpoints: `RUN/checkpoints/step-00001000/{model.safetensors,state.pt}` and `RUN/best`.

A checkpoint is written beside its place and renamed into it, so a folder under its final name is
complete. `model.safetensors` holds `method.state_dict()`; `state.pt` holds the rest of what a run
needs to go on, and loads with `weights_only=True`.
"""

from __future__ import annotations

import math
import os
import pickle
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

FORMAT = "innerloop-checkpoint-1"
WEIGHTS, STATE = "model.safetensors", "state.pt"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, does not belong to the run, or could not be written."""


@dataclass
class State:
    """Where a run stands after `step` outer steps.

    `optimizer` is the outer optimiser's state_dict, `seconds` the training time so far, `window`
    the per-step numbers that no line of metrics.jsonl has reported yet, each (steps, ...), and
    `rng` torch's global generator. `best_score` is the best validation score, larger is better.
    """

    step: int = 0
    seconds: float = 0.0
    optimizer: dict[str, Any] = field(default_factory=dict)
    window: dict[str, Tensor] = field(default_factory=dict)
    best_score: float | None = None
    best_step: int | None = None
    rng: Tensor | None = None


def found(run_dir: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted(p for p in (run_dir / "checkpoints").glob("step-*") if p.name[5:].isdigit())


def save(run_dir: Path, method: nn.Module, state: State, keep_last: int) -> Path:
    """Write the checkpoint of `state.step`, then delete all but the newest `keep_last`.

    Raises:
        CheckpointError: the folder cannot be written or the disk is full; what was there stays.
    """
    place = run_dir / "checkpoints" / f"step-{state.step:08d}"
    draft = place.with_name(f".draft-{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
        write_weights(draft / WEIGHTS, method, {"step": str(state.step)})
        with (draft / STATE).open("wb") as file:
            torch.save({"format": FORMAT, **vars(state)}, file)
            _flush(file)
        if place.exists():  # a damaged one, left behind by a run that resumed before it
            place.rename(place.with_name(f"damaged-{place.name}-{uuid.uuid4().hex[:8]}"))
        draft.rename(place)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        kept = found(run_dir)
        last = f"the last good one is {kept[-1]}" if kept else "there is no earlier one"
        raise CheckpointError(
            f"could not write the checkpoint {place}: {error}; {last}. Free space or make the "
            f"folder writable, then resume with: innerloop train {run_dir} --resume"
        ) from error
    for old in found(run_dir)[:-keep_last]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def save_best(run_dir: Path, method: nn.Module, state: State) -> Path:
    """Write `RUN/best/model.safetensors`, with step and score in its header, over the older one."""
    header = {"step": str(state.best_step), "score": str(state.best_score)}
    place = run_dir / "best" / WEIGHTS
    _write_best(place, method, header)
    return place


def save_ranked(run_dir: Path, method: nn.Module, step: int, score: float, keep: int) -> None:
    """Keep the weights of the `keep` best validations as `RUN/best/step-00001000.safetensors`.

    Larger scores are better; of equal ones the earlier stays. Files of later steps are left over
    from before a resumption, and go.
    """
    older = [row for row in ranked(run_dir) if row[1] < step]
    place = run_dir / "best" / f"step-{step:08d}.safetensors"
    kept = [path for *_, path in sorted([*older, (_badness(score), step, place)])[:keep]]
    if place in kept:
        _write_best(place, method, {"step": str(step), "score": str(score)})
    for *_, path in ranked(run_dir):
        if path not in kept:
            path.unlink()


def ranked(run_dir: Path) -> list[tuple[float, int, Path]]:
    """The weights that `save_ranked` keeps, best first: minus the score, the step, the file."""
    rows = []
    for path in (run_dir / "best").glob("step-*.safetensors"):
        header = _read_weights(path)[1]
        rows.append((_badness(float(header["score"])), int(header["step"]), path))
    return sorted(rows)


def best_of(run_dir: Path, count: int) -> list[Path]:
    """The weights files of the `count` best validations of a run, best first.

    Raises:
        FileNotFoundError: the run has not kept so many.
    """
    paths = [path for *_, path in ranked(run_dir)]
    if len(paths) < count:
        raise FileNotFoundError(
            f"{run_dir} has kept the weights of {len(paths)} validations, and {count} were asked "
            f"for: train with --train.keep_best {max(2, count)} and at least as many validations "
            "(train.validate_every)"
        )
    return paths[:count]


def _badness(score: float) -> float:
    return math.inf if math.isnan(score) else -score


def _write_best(place: Path, method: nn.Module, header: Mapping[str, str]) -> None:
    draft = place.with_name(f".draft-{uuid.uuid4().hex}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_weights(draft, method, header)
        draft.replace(place)
    except (OSError, safetensors.SafetensorError) as error:
        draft.unlink(missing_ok=True)
        raise CheckpointError(
            f"could not write {place}: {error}; the older file stays. Free space or make the "
            f"folder writable, then resume with: innerloop train {place.parent.parent} --resume"
        ) from error


def write_weights(path: Path, method: nn.Module, header: Mapping[str, str]) -> None:
    """`method.state_dict()` as a safetensors file; tied weights are stored once per name."""
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in method.state_dict().items()}
    data = safetensors.torch.save(tensors, {"format": FORMAT, **header})
    with path.open("wb") as file:
        file.write(data)
        _flush(file)


def load_newest(run_dir: Path, method: nn.Module) -> tuple[State | None, list[str]]:
    """Load the newest readable checkpoint into `method`; a warning for each damaged newer one.

    Returns no state if the run has no checkpoint yet.

    Raises:
        CheckpointError: every checkpoint is damaged, or the newest readable one has other tensors
            than `method`. `method` is then as it was.
    """
    places = found(run_dir)
    damaged: list[str] = []
    for place in reversed(places):
        try:
            tensors, state = _read(place)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        load_tensors(method, tensors, place / WEIGHTS)
        return state, damaged
    if damaged:
        raise CheckpointError(
            "\n".join(["no checkpoint of the run can be read:", *(f"  {d}" for d in damaged)])
        )
    return None, []


def load_weights(path: Path, method: nn.Module) -> dict[str, str]:
    """Load a `model.safetensors` into `method`; returns the header's step (and score)."""
    tensors, header = _read_weights(path)
    load_tensors(method, tensors, path)
    return header


def weights_of(run_dir: Path, which: str = "best") -> Path:
    """The weights file of a run: the best on validation, or the newest checkpoint's.

    `which` is "best", "last" or a step such as "1000". A run that never validated has no best
    file; its last checkpoint stands in.

    Raises:
        FileNotFoundError: the run has no such file.
    """
    places = found(run_dir)
    best = run_dir / "best" / WEIGHTS
    if which == "best" and best.exists():
        return best
    if which in ("best", "last") and places:
        return places[-1] / WEIGHTS
    if which.isdigit() and (run_dir / "checkpoints" / f"step-{int(which):08d}").exists():
        return run_dir / "checkpoints" / f"step-{int(which):08d}" / WEIGHTS
    has = ", ".join(str(int(p.name[5:])) for p in places) or "none"
    raise FileNotFoundError(
        f"{run_dir} holds no weights for {which!r}: expected 'best', 'last' or one of its "
        f"checkpoints' steps ({has}); train it with: innerloop train RECIPE --run {run_dir}"
    )


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


def clear_drafts(run_dir: Path) -> None:
    """Remove what a killed save left behind."""
    for draft in run_dir.glob("checkpoints/.draft-*"):
        shutil.rmtree(draft, ignore_errors=True)
    for draft in run_dir.glob("best/.draft-*"):
        draft.unlink(missing_ok=True)


def _read(place: Path) -> tuple[dict[str, Tensor], State]:
    tensors, header = _read_weights(place / WEIGHTS)
    path = place / STATE
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is damaged or truncated ({_line(error)})") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path} was not written by innerloop (expected {FORMAT})")
    if content.keys() != {f.name for f in fields(State)}:
        raise CheckpointError(f"{path} holds {sorted(content)} where a run's state was expected")
    state = State(**content)
    if header.get("step") != str(state.step):
        raise CheckpointError(f"{place}: weights of step {header.get('step')}, state {state.step}")
    return tensors, state


def _read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or truncated ({_line(error)})") from error
    if header.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path} was not written by innerloop (expected {FORMAT})")
    return tensors, header


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else repr(error)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())

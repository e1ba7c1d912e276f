"""Checkpoints: `RUN/checkpoints/step-00001000/{model.safetensors,state.pt}` and `RUN/best`.

A checkpoint is written beside its place and renamed into it, so a folder under its final name is
complete. `model.safetensors` holds `method.state_dict()` and a digest (see `train.weights`);
`state.pt` holds the rest of what a run needs to go on, and loads with `weights_only=True`; its
SHA-256 is beside it. A run saves before it validates; what the validation of that step found
follows as `validation.json` in the same folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from ..core.files import replacing, write_text
from .weights import (
    FORMAT,
    WITHOUT_DIGEST,
    CheckpointError,
    damaged,
    first_line,
    flush,
    load_tensors,
    read_bytes,
    read_weights,
    write_weights,
)

WEIGHTS, STATE, VALIDATION = "model.safetensors", "state.pt", "validation.json"
STATE_DIGEST = "state.sha256"


@dataclass
class State:
    """Where a run stands after `step` outer steps.

    `optimizer` is the outer optimiser's state_dict, `seconds` the time so far in steps and
    validations, `window` the per-step numbers that no line of metrics.jsonl has reported yet, each
    (steps, ...), `before` what was last measured without adaptation, and `rng` torch's global
    generator. `best_score` is the best validation score, larger is better; `validated` is the step
    of the last validation. `metrics` is the size and digest of metrics.jsonl.
    """

    step: int = 0
    seconds: float = 0.0
    optimizer: dict[str, Any] = field(default_factory=dict)
    window: dict[str, Tensor] = field(default_factory=dict)
    best_score: float | None = None
    best_step: int | None = None
    rng: Tensor | None = None
    before: dict[str, float] = field(default_factory=dict)
    validated: int | None = None
    metrics: dict[str, Any] | None = None


_FOUND_BY_VALIDATION = ("validated", "best_score", "best_step", "seconds", "metrics")


def found(run_dir: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    places = [p for p in (run_dir / "checkpoints").glob("step-*") if p.name[5:].isdigit()]
    return sorted(places, key=_step)


def save(run_dir: Path, method: nn.Module, state: State, keep_last: int) -> Path:
    """Write the checkpoint of `state.step`, then delete all but the newest `keep_last`.

    Raises:
        CheckpointError: the folder cannot be written or the disk is full; what was there stays.
    """
    place = _place(run_dir, state.step)
    draft = _draft(place)
    try:
        draft.mkdir(parents=True)
        content = io.BytesIO()
        torch.save({"format": FORMAT, **vars(state)}, content)
        with (draft / STATE).open("wb") as file:
            file.write(content.getbuffer())
            flush(file)
        digest = hashlib.sha256(content.getbuffer()).hexdigest()
        (draft / STATE_DIGEST).write_text(f"{digest}  {STATE}\n")  # as sha256sum -c reads it
        write_weights(draft / WEIGHTS, method, {"step": str(state.step)})
        if place.exists():  # a damaged one, left behind by a run that resumed before it
            _set_aside(place)
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
        _delete(old)
    return place


def save_validation(run_dir: Path, state: State) -> None:
    """Add to the checkpoint of `state.step`, if there is one, what its validation has found."""
    place = _place(run_dir, state.step)
    if place.exists():
        facts = {name: getattr(state, name) for name in _FOUND_BY_VALIDATION}
        write_text(
            place / VALIDATION,
            json.dumps({**facts, "digest": _digest(facts)}) + "\n",
            inside_run=True,
        )


def save_best(run_dir: Path, method: nn.Module, state: State) -> Path:
    """Write `RUN/best/model.safetensors`, with step and score in its header, over the older one."""
    header = {"step": str(state.best_step), "score": str(state.best_score)}
    place = run_dir / "best" / WEIGHTS
    _write_best(place, method, header)
    return place


def save_ranked(run_dir: Path, method: nn.Module, step: int, score: float, keep: int) -> None:
    """Keep the weights of the `keep` best validations as `RUN/best/step-00001000.safetensors`.

    Larger scores are better; of equal ones the earlier stays. Files of later steps are left over
    from before a resumption, and go; damaged ones are renamed `damaged-...`.
    """
    for path in (run_dir / "best").glob("step-*.safetensors"):
        try:
            read_weights(path)
        except CheckpointError:
            _set_aside(path)
    older = [row for row in ranked(run_dir) if row[1] < step]
    place = run_dir / "best" / f"step-{step:08d}.safetensors"
    kept = [path for *_, path in sorted([*older, (badness(score), step, place)])[:keep]]
    if place in kept:
        _write_best(place, method, {"step": str(step), "score": str(score)})
    for *_, path in ranked(run_dir):
        if path not in kept:
            path.unlink()


def ranked(run_dir: Path) -> list[tuple[float, int, Path]]:
    """The weights that `save_ranked` keeps, best first: minus the score, the step, the file."""
    rows = []
    for path in (run_dir / "best").glob("step-*.safetensors"):
        header = read_weights(path)[1]
        rows.append((badness(float(header["score"])), int(header["step"]), path))
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


def badness(score: float) -> float:
    """What validations are sorted by: minus the score; one that is no number comes last."""
    return math.inf if math.isnan(score) else -score


def load_newest(
    run_dir: Path, method: nn.Module, restore: Callable[[State], None] | None = None
) -> tuple[State | None, list[str]]:
    """Load the newest good checkpoint into `method`; a warning for each damaged newer one.

    `restore` takes the state back into optimiser and generators. A checkpoint is damaged when
    anything in it cannot be read or restored. Returns no state if the run has no checkpoint yet.

    Raises:
        CheckpointError: every checkpoint is damaged, or the newest readable one has other tensors
            than `method`. `method` is then as it was.
    """
    before = {k: v.clone() for k, v in method.state_dict().items()}
    bad: list[str] = []
    for place in reversed(found(run_dir)):
        try:
            tensors, state = _read(place)
        except CheckpointError as error:
            bad.append(str(error))
            continue
        load_tensors(method, tensors, place / WEIGHTS)
        try:
            if restore is not None:
                restore(state)
        except Exception as error:
            bad.append(f"{place / STATE} is not the state of this run ({first_line(error)})")
            method.load_state_dict(before)
            continue
        return state, bad
    if bad:
        raise CheckpointError(
            "\n".join(
                [
                    "no checkpoint of the run can be read:",
                    *(f"  {line}" for line in bad),
                    f"Delete {run_dir / 'checkpoints'} to begin again with --resume, or choose "
                    "another folder: --run DIR",
                ]
            )
        )
    return None, []


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
    if which.isdecimal() and _place(run_dir, int(which)).exists():
        return _place(run_dir, int(which)) / WEIGHTS
    has = ", ".join(str(_step(p)) for p in places) or "none"
    raise FileNotFoundError(
        f"{run_dir} holds no weights for {which!r}: expected 'best', 'last' or one of its "
        f"checkpoints' steps ({has}); train it with: innerloop train RECIPE --run {run_dir}"
    )


def clear_drafts(run_dir: Path) -> None:
    """Remove what a killed run left behind. Only for the one process that trains in the folder."""
    files = ("config.yaml", "task.json", "cost.json", "metrics.jsonl")
    left = [p for name in files for p in run_dir.glob(f".{name}.*")]
    left += [p for name in files for p in run_dir.glob(f".draft-{name}")]
    left += run_dir.glob("checkpoints/.draft-*")
    left += run_dir.glob("best/.draft-*")
    for draft in left:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def _place(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:08d}"


def _step(place: Path) -> int:
    return int(place.name[5:])


def _draft(place: Path) -> Path:
    return place.with_name(f".draft-{uuid.uuid4().hex}")


def _set_aside(place: Path) -> None:
    place.rename(place.with_name(f"damaged-{place.name}-{uuid.uuid4().hex[:8]}"))


def _delete(place: Path) -> None:
    """At once under its own name: a kill leaves a draft, never half a checkpoint."""
    draft = _draft(place)
    place.rename(draft)
    shutil.rmtree(draft, ignore_errors=True)


def _write_best(place: Path, method: nn.Module, header: Mapping[str, str]) -> None:
    try:
        with replacing(place, inside_run=True) as draft:
            write_weights(draft, method, header)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"could not write {place}: {error}; the older file stays. Free space or make the "
            f"folder writable, then resume with: innerloop train {place.parent.parent} --resume"
        ) from error


def _read(place: Path) -> tuple[dict[str, Tensor], State]:
    """Weights and state, each as it was written. Raises CheckpointError."""
    tensors, header = read_weights(place / WEIGHTS)
    path = place / STATE
    content = read_bytes(path)
    digest = (place / STATE_DIGEST).read_bytes() if (place / STATE_DIGEST).exists() else None
    if digest is not None and digest[:64] != hashlib.sha256(content).hexdigest().encode():
        raise CheckpointError(f"{path} is damaged: its bytes are not those that were written")
    try:
        values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a parser says of bytes that no digest vouches for
        raise damaged(path, error) from error
    written = values.pop("format", None) if isinstance(values, dict) else None
    if written == FORMAT and digest is None:
        raise CheckpointError(f"{place / STATE_DIGEST} is missing")
    if written not in (FORMAT, WITHOUT_DIGEST):
        raise CheckpointError(f"{path} was not written by innerloop (expected {FORMAT})")
    if written == WITHOUT_DIGEST:  # those were saved after their validation
        values = {"before": {}, "validated": values.get("step"), "metrics": None, **values}
    if values.keys() != {f.name for f in fields(State)}:
        raise CheckpointError(f"{path} holds {sorted(values)} where a run's state was expected")
    state = State(**values)
    if header.get("step") != str(state.step):
        raise CheckpointError(f"{place}: weights of step {header.get('step')}, state {state.step}")
    _add_validation(place, state)
    return tensors, state


def _add_validation(place: Path, state: State) -> None:
    """What came of the validation, if that is known; if not, the run validates again."""
    try:
        facts = json.loads((place / VALIDATION).read_text(encoding="utf-8"))
        if facts.pop("digest") != _digest(facts) or facts["validated"] != state.step:
            return
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    for name in _FOUND_BY_VALIDATION:
        setattr(state, name, facts[name])


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

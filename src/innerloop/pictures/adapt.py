"""Adapting to a person's own pictures, from folders to predictions and a saved model."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn

from ..core.files import check_folder, new_folder
from ..core.types import Batch, Task
from ..data.images.files import Channels
from ..evaluate.run import device_of
from ..method import Method
from .load import ABOUT, CONSTANT, FORMAT, PROGRAM, WEIGHTS, digest
from .photos import Photos, query_photos, read_photos, support_photos
from .program import NotExportable, Program, written
from .sheet import Prediction, contact_sheet

logger = logging.getLogger(__name__)

TABLE, SHEET = "predictions.csv", "contact_sheet.png"

AT_ONCE = 256
"""Queries run together when predictions do not depend on each other, and the most that are tried
one by one when they do."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a table program takes for the beginning of a formula."""


@dataclass(frozen=True)
class AdaptReport:
    """What adapting found. `accuracy` is None where no true class is known; `norm` is the
    normalisation policy, and `depends_on_neighbours` whether by it an answer depends on the other
    pictures it is given with; `notes` are things a reader must know to use the numbers."""

    out: Path
    classes: list[str]
    support: dict[str, int]
    predictions: list[Prediction]
    accuracy: float | None
    support_accuracy: float
    steps: int | None
    norm: str
    depends_on_neighbours: bool
    notes: list[str]


def adapt_images(
    method: Method,
    support_dir: str | Path,
    query: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    size: int | tuple[int, int],
    channels: int,
    invert: bool = False,
    steps: int | None = None,
    model_config: Mapping[str, Any] | None = None,
) -> AdaptReport:
    """Adapt `method` to the classes in `support_dir/CLASS/*` and classify the `query` images.

    `query` is a folder of class folders (then the accuracy is reported), a flat folder, or a list
    of files. Images are brought to `size` pixels and `channels` (1 grey, 3 RGB) in [0, 1], and
    turned into their negative by `invert`: as in the meta-training data. `steps` replaces the
    trained number of inner steps. `out` (new or empty) gets predictions.csv, contact_sheet.png, and
    the adapted model for `innerloop.load`: all of them or none.

    A model with N outputs takes up to N classes; with fewer, only theirs can be predicted. Under
    the normalisation policy `batch` an answer depends on the pictures beside it: the report says
    so, and how many answers would be others for the picture alone.

    Raises: ValueError, before anything is written, for bad folders or files, too many classes, a
    regression method, an adaptation that diverges, or an `out` that holds something; OSError if it
    cannot be written.
    """
    support_dir, out = Path(support_dir), Path(out)
    asked_for = Path(query) if isinstance(query, str | Path) else [Path(path) for path in query]
    _check_out(out, [support_dir, *([asked_for] if isinstance(asked_for, Path) else [])])
    if method.objective.metric.name != "accuracy":
        raise ValueError(f"{method.name} was trained for regression: it has no classes to predict.")
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}.")
    given = support_photos(support_dir)
    classes = sorted({name for name in given.classes if name is not None})
    asked = query_photos(asked_for, classes)
    device = device_of(method)
    x, query_x = (
        read_photos(photos.files, size, cast(Channels, channels), invert).to(device)
        for photos in (given, asked)
    )
    y = torch.tensor([classes.index(name or "") for name in given.classes], device=device)
    notes = _check_outputs(method, x, y, len(classes))
    adapted = method.adapt(x, y, steps)
    _check_weights(adapted)
    norm = method.describe().get("norm", "")
    together = norm.startswith("batch")
    probabilities = _probabilities(adapted, query_x, len(classes), together)
    if together:
        notes.append(_neighbours_note(adapted, query_x, probabilities))
    fitted = _probabilities(adapted, x, len(classes), together).argmax(1) == y.cpu()
    report = AdaptReport(
        out=out,
        classes=classes,
        support={name: given.classes.count(name) for name in classes},
        predictions=_predictions(asked, probabilities, classes),
        accuracy=_accuracy(asked, probabilities, classes),
        support_accuracy=float(fitted.double().mean()),
        steps=steps,
        norm=norm,
        depends_on_neighbours=together,
        notes=notes,
    )
    for note in notes:
        logger.warning(note)
    about = _about(method, report, size, channels, invert, model_config)
    _write(report, adapted.cpu(), x.cpu(), about)
    return report


def _check_out(out: Path, inputs: Sequence[Path]) -> None:
    check_folder(out)
    for root in inputs:
        if root.is_dir() and out.resolve().is_relative_to(root.resolve()):
            raise ValueError(
                f"{out} lies inside {root}, whose images it would be mixed with. Give an --out "
                "elsewhere."
            )


def _check_weights(adapted: nn.Module) -> None:
    """Buffers may hold infinities on purpose (masks), parameters may not."""
    bad = [name for name, p in adapted.named_parameters() if not p.isfinite().all()]
    bad += [name for name, b in adapted.named_buffers() if b.isnan().any()]
    if bad:
        raise ValueError(
            f"The adapted weights are not finite: adaptation diverged ({', '.join(bad[:3])}"
            f"{', ...' if len(bad) > 3 else ''}). Use fewer --steps."
        )


def _check_outputs(method: Method, x: Tensor, y: Tensor, classes: int) -> list[str]:
    """Refuse more classes than outputs; a note if there are fewer."""
    support = Batch(x.unsqueeze(0), y.unsqueeze(0))
    outputs = method.query_outputs(Task(support, support), steps=0).shape[-1]
    if classes > outputs:
        raise ValueError(
            f"{classes} classes in the support folder, but the model was trained {outputs}-way and "
            f"has {outputs} outputs. Give at most {outputs} class folders, or train one with more: "
            f"innerloop train RECIPE --data.way {classes}; a ProtoNet takes any number."
        )
    if classes < outputs:
        return [
            f"the model has {outputs} outputs and {classes} classes were given: predictions are "
            f"restricted to the {classes} given ones"
        ]
    return []


def _neighbours_note(adapted: nn.Module, x: Tensor, probabilities: Tensor) -> str:
    """What norm="batch" does to the answers, measured by asking for each picture alone."""
    note = (
        "normalisation by the statistics of the query batch (transductive, norm=batch): an answer "
        "depends on the other queries that it is made with"
    )
    tried = min(len(x), AT_ONCE)
    if len(x) > 1:
        try:
            classes = probabilities.shape[1]
            alone = [_probabilities(adapted, row[None], classes, True) for row in x[:tried]]
        except ValueError:  # the layers refuse a batch of one value per channel
            return f"{note}, and no picture can be classified alone"
        changed = int((torch.cat(alone).argmax(1) != probabilities[:tried].argmax(1)).sum())
        note += f"; {changed} of {tried} would be another for the picture alone"
    return f"{note}. A model trained with norm=support answers for each picture by itself"


def _probabilities(adapted: nn.Module, x: Tensor, classes: int, together: bool) -> Tensor:
    """(n, classes) on the CPU, restricted to the given classes."""
    parts = [x] if together else list(x.split(AT_ONCE))
    with torch.no_grad():
        logits = torch.cat([adapted(part) for part in parts])[:, :classes]
    if not logits.isfinite().all():
        raise ValueError(
            "The adapted model gives outputs that are not finite: adaptation diverged. Use fewer "
            "--steps."
        )
    return logits.cpu().double().softmax(1)


def _predictions(asked: Photos, probabilities: Tensor, classes: list[str]) -> list[Prediction]:
    best = probabilities.max(1)
    return [
        Prediction(path, classes[k], p, true)
        for path, true, k, p in zip(
            asked.files, asked.classes, best.indices.tolist(), best.values.tolist(), strict=True
        )
    ]


def _accuracy(asked: Photos, probabilities: Tensor, classes: list[str]) -> float | None:
    if None in asked.classes:
        return None
    y = torch.tensor([classes.index(name or "") for name in asked.classes])
    return float((probabilities.argmax(1) == y).double().mean())


def _about(
    method: Method,
    report: AdaptReport,
    size: int | tuple[int, int],
    channels: int,
    invert: bool,
    model_config: Mapping[str, Any] | None,
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "classes": report.classes,
        "support_images": report.support,
        "method": method.describe(),
        "steps": report.steps,
        "norm": report.norm,
        "depends_on_neighbours": report.depends_on_neighbours,
        "model": None if model_config is None else dict(model_config),
        "input": {"size": size, "channels": channels, "range": [0, 1], "invert": invert},
        "accuracy": report.accuracy,
        "support_accuracy": report.support_accuracy,
        "notes": report.notes,
        "load": "innerloop.load(FOLDER)",
    }


def _write(report: AdaptReport, adapted: nn.Module, x: Tensor, about: dict[str, Any]) -> None:
    # Copies: safetensors refuses tensors that share memory (tied weights).
    weights = {k: v.detach().contiguous().clone() for k, v in adapted.state_dict().items()}
    contents: dict[str, bytes] = {}
    try:
        program, constants = _program(adapted, x)
        weights |= {CONSTANT + k: v.clone() for k, v in constants.items() if k not in weights}
        contents[PROGRAM] = json.dumps(program).encode()
    except NotExportable as reason:
        about = {**about, "no_program": str(reason)}
        logger.warning("innerloop.load cannot open %s: %s", report.out, reason)
    contents[WEIGHTS] = safetensors.torch.save(weights)
    digests = {name: digest(content) for name, content in contents.items()}
    text = json.dumps({**about, "digests": digests}, indent=2, ensure_ascii=False)
    right = "" if report.accuracy is None else f", {100 * report.accuracy:.1f} % right"
    beside = ", each by the others beside it (norm=batch)" if report.depends_on_neighbours else ""
    title = f"{len(report.predictions)} queries, {len(report.classes)} classes{right}{beside}"
    contents[ABOUT] = f"{text}\n".encode()
    contents[TABLE] = _csv(report.predictions).encode()
    contents[SHEET] = contact_sheet(report.predictions, report.classes, title)
    with new_folder(report.out) as draft:
        for name, content in contents.items():
            (draft / name).write_bytes(content)


def _program(adapted: nn.Module, x: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The network as operations that give its outputs on the support images `x`.

    Raises: NotExportable.
    """
    told, tensors = written(adapted, x)
    try:
        rebuilt = Program(told, {name: value.clone() for name, value in tensors.items()})
        with torch.no_grad():
            wanted, found = adapted(x), rebuilt(x)
    except (RuntimeError, ValueError) as error:
        raise NotExportable(f"its operations do not run by themselves: {error}") from error
    if not torch.allclose(wanted, found, rtol=0, atol=1e-5 * float(wanted.abs().max())):
        raise NotExportable("its operations by themselves compute something else")
    return told, tensors


def _csv(predictions: Sequence[Prediction]) -> str:
    """A table program runs what looks like a formula: a quote in front makes it text."""

    def text(value: object) -> str:
        told = str(value)
        return f"'{told}" if told.startswith(FORMULA) else told

    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["file", "predicted", "probability", "true"])
    for row in predictions:
        probability = f"{row.probability:.4f}"
        writer.writerow([text(row.file), text(row.predicted), probability, text(row.true or "")])
    return buffer.getvalue()

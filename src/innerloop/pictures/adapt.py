"""Adapting to a person's own pictures, from folders to predictions and a saved model."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..core.types import Batch, Task
from ..data.images.files import Channels
from ..evaluate.run import device_of
from ..method import Method
from .photos import Photos, query_photos, read_photos, support_photos
from .sheet import Prediction, contact_sheet

logger = logging.getLogger(__name__)

FORMAT = "innerloop-adapted-1"
WEIGHTS, ABOUT, TABLE, SHEET = (
    "adapted.safetensors",
    "adapted.json",
    "predictions.csv",
    "contact_sheet.png",
)
AT_ONCE = 256
"""Queries run together when predictions do not depend on each other."""


@dataclass(frozen=True)
class AdaptReport:
    """What adapting found. `accuracy` is None where no true class is known; `notes` are things a
    reader must know to use the numbers."""

    out: Path
    classes: list[str]
    support: dict[str, int]
    predictions: list[Prediction]
    accuracy: float | None
    support_accuracy: float
    steps: int | None
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
    trained number of inner steps. `out` (new or empty) gets predictions.csv, adapted.safetensors
    with adapted.json (see `load_adapted`), and contact_sheet.png: all of them or none.

    A model with N outputs takes up to N classes; with fewer, only theirs can be predicted.

    Raises: ValueError, before anything is written, for bad folders or files, too many classes, a
    regression method, or an `out` that holds something.
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
    transductive = method.describe().get("norm") == "batch"
    if transductive:
        notes.append(_transductive_note(len(asked.files)))
    probabilities = _probabilities(adapted, query_x, len(classes), transductive)
    fitted = _probabilities(adapted, x, len(classes), transductive).argmax(1) == y.cpu()
    report = AdaptReport(
        out=out,
        classes=classes,
        support={name: given.classes.count(name) for name in classes},
        predictions=_predictions(asked, probabilities, classes),
        accuracy=_accuracy(asked, probabilities, classes),
        support_accuracy=float(fitted.double().mean()),
        steps=steps,
        notes=notes,
    )
    for note in notes:
        logger.warning(note)
    about = _about(method, report, size, channels, invert, model_config)
    _write(report, adapted, about)
    return report


def load_adapted(folder: str | Path, module: nn.Module) -> list[str]:
    """Fill `module`, built like the trained model, with an adapted one; returns its class names.

    Output i stands for the i-th class. The normalisation policy comes with the weights: layers
    without stored statistics use those of the batch they get. The module is put in eval mode. An
    adapted ProtoNet is loaded into `ProtoClassifier(model, torch.empty(classes, features))`.

    Raises: ValueError if `adapt_images` did not write the folder, or the weights do not fit.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        weights = safetensors.torch.load_file(folder / WEIGHTS)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{folder} holds no adapted model ({error}): expected {WEIGHTS} and {ABOUT}, as "
            "`innerloop adapt --out DIR` writes them."
        ) from error
    for name, layer in module.named_modules():
        if isinstance(layer, _NormBase):
            _follow(layer, name, weights)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{folder / WEIGHTS} does not fit {type(module).__name__}: {error}. Build the model as "
            f"described under 'model' in {ABOUT}."
        ) from error
    module.eval()
    return [str(name) for name in about["classes"]]


def _follow(layer: _NormBase, name: str, weights: dict[str, Tensor]) -> None:
    """Give the layer running statistics exactly if the file has some for it."""
    for buffer in ("running_mean", "running_var", "num_batches_tracked"):
        stored = weights.get(f"{name}.{buffer}" if name else buffer)
        layer.register_buffer(buffer, None if stored is None else torch.empty_like(stored))
    layer.track_running_stats = layer.running_mean is not None


def _check_out(out: Path, inputs: Sequence[Path]) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"{out} exists and is not empty: nothing is overwritten. Give another --out, or remove "
            "it first."
        )
    for root in inputs:
        if root.is_dir() and out.resolve().is_relative_to(root.resolve()):
            raise ValueError(
                f"{out} lies inside {root}, whose images it would be mixed with. Give an --out "
                "elsewhere."
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


def _transductive_note(queries: int) -> str:
    note = (
        "normalisation by the statistics of the query batch (transductive): a prediction depends "
        "on the other queries that it is made with"
    )
    if queries == 1:
        note += (
            "; with a single query that is unreliable: give several, or use a model trained with "
            "norm=support"
        )
    return note


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
        "model": None if model_config is None else dict(model_config),
        "input": {"size": size, "channels": channels, "range": [0, 1], "invert": invert},
        "accuracy": report.accuracy,
        "support_accuracy": report.support_accuracy,
        "notes": report.notes,
        "load": "build the model as under 'model', then "
        "innerloop.pictures.load_adapted(FOLDER, model) fills it and returns the class names",
    }


def _write(report: AdaptReport, adapted: nn.Module, about: dict[str, Any]) -> None:
    # Copies: safetensors refuses tensors that share memory (tied weights).
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in adapted.state_dict().items()}
    right = "" if report.accuracy is None else f", {100 * report.accuracy:.1f} % right"
    title = f"{len(report.predictions)} queries, {len(report.classes)} classes{right}"
    with _whole_folder(report.out) as draft:
        (draft / WEIGHTS).write_bytes(safetensors.torch.save(weights))
        (draft / ABOUT).write_text(
            json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        (draft / TABLE).write_text(_csv(report.predictions), encoding="utf-8", newline="")
        (draft / SHEET).write_bytes(contact_sheet(report.predictions, report.classes, title))


def _csv(predictions: Sequence[Prediction]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["file", "predicted", "probability", "true"])
    for row in predictions:
        writer.writerow([row.file, row.predicted, f"{row.probability:.4f}", row.true or ""])
    return buffer.getvalue()


@contextlib.contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A draft folder beside `out` that becomes `out` at the end, or vanishes on an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield draft
        os.chmod(draft, 0o755)
        if out.exists():
            out.rmdir()
        os.replace(draft, out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise

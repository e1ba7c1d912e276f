"""The model made ready for the probes: does it run, does its loss, and does it in float64?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..call import policy as norms
from ..call.copies import copied
from ..call.model import ModelCall
from ..core.types import Batch, Params
from ..objective.losses import Loss
from .advice import forward_advice
from .probes import Target
from .report import Row
from .trace import Trace, layer_label, trace


@dataclass(frozen=True)
class Subject:
    """A model that runs, as functions to differentiate.

    `native` is in the model's own precision, `wide` in float64 if the model runs there, else the
    same; `calm` is `wide` with dropout off if the model draws random numbers.
    """

    native: Target
    wide: Target
    calm: Target
    watched: Trace
    watched_wide: Trace


def prepare(
    model: nn.Module, loss: Loss, x: Tensor, y: Tensor, norm: str | None
) -> tuple[list[Row], Subject | None]:
    """Rows on `forward`, `loss` and `float64`; the subject, or None where it does not run."""
    watched = _watch(model, x, norm)
    row = _forward_row(watched, x)
    if not row.ok:
        return [row], None
    try:
        native = _support_loss(model, loss, x, y, norm)
        value = native(native.primals)
    except Exception as error:
        detail, _, told = str(error).partition("; ")
        if not told and not isinstance(error, ValueError):
            told = "check the labels' shape and type and the number of the model's outputs"
        return [row, Row("loss", False, "", detail, told)], None
    if not torch.isfinite(value):
        advice = "look at the range of the inputs and labels"
        return [row, Row("loss", False, "", f"the loss is {value.item()}", advice)], None
    rows = [row, Row("loss", True, "", f"{loss.name}, {value.item():.4g} on the example")]
    wide_row, wide, watched_wide = _in_float64(model, loss, x, y, norm)
    if wide is None:
        return [*rows, wide_row], Subject(native, native, native, watched, watched)
    calm = wide
    if watched.innermost("random"):
        quiet = copied(model).double().eval()
        calm = _support_loss(quiet, loss, _double(x), _double(y), norm)
    return [*rows, wide_row], Subject(native, wide, calm, watched, watched_wide)


def first_line(error: BaseException) -> str:
    """The first line of an error message, at most 160 characters."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 160 else line[:157] + "..."


def _forward_row(watched: Trace, x: Tensor) -> Row:
    if watched.error is not None:
        culprit = watched.culprit
        layer = layer_label(culprit.name, culprit.module) if culprit else ""
        detail = f"{type(watched.error).__name__}: {first_line(watched.error)}"
        return Row("forward", False, layer, detail, forward_advice(watched.error))
    output = watched.output
    if not isinstance(output, Tensor):
        advice = "wrap it in a module whose forward returns the outputs only"
        return Row("forward", False, "", f"returns {type(output).__name__}, not a tensor", advice)
    if not output.is_floating_point():
        advice = "return logits or values, not classes: leave out the argmax"
        return Row("forward", False, "", f"returns {output.dtype}, which has no gradient", advice)
    if output.dim() == 0 or len(output) != len(x):
        detail = f"{len(x)} examples give outputs {tuple(output.shape)}"
        return Row("forward", False, "", detail, "return one row per example: (n, ...)")
    if infinite := watched.innermost("infinite"):
        layer = layer_label(infinite[0].name, infinite[0].module)
        advice = "look at the inputs' range, and at divisions, logarithms and roots in it"
        return Row("forward", False, layer, "its output is not finite", advice)
    return Row("forward", True, "", f"inputs {tuple(x.shape)}, outputs {tuple(output.shape)}")


def _in_float64(
    model: nn.Module, loss: Loss, x: Tensor, y: Tensor, norm: str | None
) -> tuple[Row, Target | None, Trace]:
    """The same in double precision; without it derivatives are run, but not compared."""
    advice = "use dtype=x.dtype for what forward creates; until then gradients are not compared"
    double = copied(model).double()
    x, y = _double(x), _double(y)
    watched = _watch(double, x, norm)
    # A layer that narrows makes the next one fail, so it is looked for first.
    if narrow := watched.innermost("narrow"):
        layer = layer_label(narrow[0].name, narrow[0].module)
        return Row("float64", True, layer, "computes in lower precision", advice), None, watched
    if watched.error is not None:
        layer = layer_label(watched.culprit.name, watched.culprit.module) if watched.culprit else ""
        return Row("float64", True, layer, first_line(watched.error), advice), None, watched
    try:
        subject = _support_loss(double, loss, x, y, norm)
        subject(subject.primals)
    except Exception as error:
        return Row("float64", True, "", first_line(error), advice), None, watched
    return Row("float64", True, "", "runs in double precision"), subject, watched


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _support_loss(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, norm: str | None) -> Target:
    """The support loss of one task as the library computes it, at slightly moved weights.

    Moved, because fresh weights sit on kinks: zero biases under ReLU on empty image borders.
    """
    call = ModelCall(model, norm)
    call.together_only = True
    generator = torch.Generator().manual_seed(0)
    params: Params = {}
    for k, p in model.named_parameters():
        spread = 0.01 * (float(p.detach().float().std(correction=0)) or 1.0)
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
        params[k] = p.detach() + spread * noise
    primals = {k: params[k] for k, p in model.named_parameters() if p.requires_grad}
    stacked = set(primals)

    def many(p: Params, d: Params) -> Tensor:
        outputs = call(params | p, stacked, d["x"], "check", None)
        return loss(outputs, Batch(d["x"], d["y"])).sum()

    def one(p: Params, d: Params) -> Tensor:
        return many({k: v[None] for k, v in p.items()}, {k: v[None] for k, v in d.items()})

    return Target(one, primals, {"x": x, "y": y}, many=many)


def _watch(model: nn.Module, x: Tensor, norm: str | None) -> Trace:
    """The trace of a copy whose normalisation layers follow the policy."""
    twin = copied(model)
    norms.apply(twin, "running" if norm == "running" else "batch")
    return trace(twin, x)

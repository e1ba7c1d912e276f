"""What a forward pass does besides computing: writes, draws, and kernels it chooses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..call.copies import copied
from .advice import RECURRENT
from .report import Row
from .trace import Call, Trace, layer_label


def watched_rows(watched: Trace) -> list[Row]:
    """Rows on randomness, attention and recurrence."""
    drawing = watched.innermost("random")
    rows = [Row("randomness", True, "", "draws no random numbers")]
    if drawing:
        advice = "the same mask is replayed when a step is evaluated again; `model.eval()` for none"
        rows = [Row("randomness", True, _labels(drawing), "draws random numbers", advice)]
    fused = watched.innermost("fused_attention")
    if fused:
        rows.append(
            Row(
                "attention",
                True,
                _labels(fused),
                "its fused kernel has no second derivative",
                "innerloop takes the math kernel by itself; in a loop of your own: "
                "`with sdpa_kernel(SDPBackend.MATH):`",
            )
        )
    recurrent = [c for c in watched.calls.values() if isinstance(c.module, RECURRENT)]
    if recurrent:
        rows.append(
            Row(
                "recurrence",
                True,
                _labels(recurrent),
                "has no batching rule and no complete forward mode",
                "runs task by task; a cell of nn.Linear, sigmoid and tanh can do everything",
            )
        )
    return rows


def write_rows(model: nn.Module, x: Tensor) -> list[Row]:
    """Two passes on a copy: its weights must stay, its buffers are compared."""
    twin = copied(model)
    params = {k: v.detach().clone() for k, v in twin.named_parameters()}
    buffers = {k: v.detach().clone() for k, v in twin.named_buffers()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=_cuda(x)):
            for _ in range(2):
                twin(x)
    except Exception:
        # A model that does not run is reported by the row on `forward`.
        return []
    rows = []
    written = [k for k, v in twin.named_parameters() if not torch.equal(v, params[k])]
    if written:
        owner = written[0].rpartition(".")[0]
        rows.append(
            Row(
                "weights",
                False,
                layer_label(owner, twin.get_submodule(owner)),
                f"forward writes to the parameter {written[0]}",
                "compute with a changed copy, e.g. `w = self.weight.clamp(-1, 1)`",
            )
        )
    changed = [
        k
        for k, v in twin.named_buffers()
        if k in buffers and not torch.equal(v.nan_to_num(), buffers[k].nan_to_num())
    ]
    if changed:
        owner = changed[0].rpartition(".")[0]
        rows.append(
            Row(
                "buffers",
                True,
                layer_label(owner, twin.get_submodule(owner)),
                f"forward writes to {', '.join(changed[:3])}{', ...' if changed[3:] else ''}",
                "adaptation works on copies: meta-learning leaves the model's buffers as they are",
            )
        )
    return rows or [Row("state", True, "", "forward writes to nothing")]


def _cuda(x: Tensor) -> list[torch.device]:
    return [x.device] if x.device.type == "cuda" else []


def _labels(calls: list[Call]) -> str:
    names = [layer_label(c.name, c.module) for c in calls]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")

"""What to do about a layer that fails: one line to type."""

from __future__ import annotations

from torch import nn

RECURRENT = (nn.RNNBase, nn.LSTMCell, nn.RNNCell)


def forward_advice(error: BaseException) -> str:
    """For a model that does not run at all."""
    text = str(error)
    if "Expected more than 1 value per channel" in text:
        return "BatchNorm has one value per channel here: give more examples, or use nn.GroupNorm"
    if "same dtype" in text:
        return "convert the example: `x.to(next(model.parameters()).dtype)`"
    if "mat1 and mat2" in text or "size mismatch" in text:
        return "compare the shape of x with what this layer was built for"
    if "in-place operation" in text:
        return "compute with a changed copy of the weight, do not write to it in forward"
    return "run `model(x)` by itself until it works"


def missing_second_derivative(error: BaseException) -> str:
    """For a layer that cannot be differentiated twice."""
    text = str(error)
    if "torch.compile" in text:
        return "leave out torch.compile in this layer"
    if "attention" in text:
        return "in its forward: `with sdpa_kernel(SDPBackend.MATH):` (torch.nn.attention)"
    if "cudnn" in text.lower():
        return "in its forward: `with torch.backends.cudnn.flags(enabled=False):`"
    return "replace the layer, or use first order: methods.fomaml(model, ...)"


def wrong_second_derivative() -> str:
    """For a layer that can be differentiated twice, with a wrong result."""
    return (
        "write its backward with differentiable operations, without .detach(), .data or "
        "@once_differentiable; or use first order: methods.fomaml(model, ...)"
    )


def forward_mode_advice() -> str:
    """For a layer without forward mode; the default estimator does not need it."""
    return "works with the default, Adjoint(ReverseOverReverse()); only ForwardOverReverse does not"


def batching_advice(layer: nn.Module | None, error: BaseException | None) -> str:
    """For a layer that `vmap` cannot batch over tasks."""
    text = str(error)
    if isinstance(layer, RECURRENT):
        return "chunk=1 is chosen by itself; a cell of nn.Linear, sigmoid and tanh can be batched"
    if "setup_context" in text or "generate_vmap_rule" in text:
        return "set chunk=1, or give the autograd.Function setup_context and generate_vmap_rule"
    if "data-dependent" in text or ".item()" in text:
        return "set chunk=1, or replace the branch on tensor values by torch.where"
    return "set chunk=1: one task at a time"

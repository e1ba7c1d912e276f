"""Private copies of a model, and what cannot be copied or differentiated."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def sharing_copy(model: nn.Module) -> nn.Module:
    """The module tree copied, its parameters and buffers shared."""
    return copied(model, {id(t): t for t in [*model.parameters(), *model.buffers()]})


def copied(model: nn.Module, memo: dict[int, Tensor]) -> nn.Module:
    try:
        return copy.deepcopy(model, memo)
    except RuntimeError as error:
        raise ValueError(
            f"the model cannot be copied ({error}); keep only parameters and buffers in it, and "
            "use torch.nn.utils.parametrizations.weight_norm in place of the old weight_norm"
        ) from error


def refuse(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected an nn.Module, got {type(model).__name__}")
    if isinstance(model, torch._dynamo.OptimizedModule):
        raise ValueError(
            "the model is compiled, and compiled backward graphs cannot be differentiated again; "
            "pass the original module (`model._orig_mod`)"
        )
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(
            f"the model is wrapped in {type(model).__name__}, which does not synchronise "
            "higher-order gradients; pass `model.module`"
        )
    for name, p in model.named_parameters():
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise ValueError(f"parameter `{name}` is lazy: run the model once on a batch first")
    if not any(True for _ in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} has no parameters, so there is nothing to learn; pass a model "
            "with at least one trainable layer"
        )

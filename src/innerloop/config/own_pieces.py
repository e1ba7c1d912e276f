"""Networks, losses and tasks of a person's own, checked for what a run needs of them."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.types import Task
from ..data.source import Source, Spec, Splits, TaskList
from .own import file_of, find, guarded

log = logging.getLogger("innerloop")

PARTS = (0.6, 0.2)
"""Of a list of tasks, the shares that are trained and validated on; the rest is for the test."""


def network(place: str, spec: Spec, outputs: int | None, digests: Mapping[str, str]) -> nn.Module:
    """A new network by the function at `place`, for inputs of `spec` and so many outputs.

    The function may take `outputs` (None where the method has no use for a last layer) and
    `x_shape`; it must need nothing else. A module in the place of a function is copied.

    Raises:
        ValueError: it makes no network, or one that does not fit the data.
    """
    with torch.random.fork_rng(devices=[]):
        # The seed of the run decides the weights that a function draws, never when it is imported.
        found = find(place, digests)
    if isinstance(found, nn.Module):
        made: Any = copy.deepcopy(found)
    else:
        made = _called(place, found, {"outputs": outputs, "x_shape": spec.x_shape})
    if not isinstance(made, nn.Module):
        raise ValueError(f"{place} gave {type(made).__name__}, expected a torch.nn.Module")
    _check_shapes(place, made, spec, outputs)
    return made


def loss(place: str, digests: Mapping[str, str]) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss at `place`: called with the outputs (n, ...) and labels (n, ...) of one task.

    Raises:
        ValueError: it cannot be called.
    """
    found = find(place, digests)
    if inspect.isclass(found) or (not callable(found)):
        raise ValueError(
            f"{place} is {'a class' if inspect.isclass(found) else type(found).__name__}, expected "
            "a function loss(outputs, y) that returns a scalar, or an instance that can be called"
        )
    return found


def splits(place: str, device: torch.device | str, digests: Mapping[str, str]) -> Splits:
    """The tasks at `place`: a `Source`, `Splits`, a list of tasks, or a function that makes one.

    The function may take `device`. A list is parted in its order, 60 % to train, 20 % to validate,
    the rest to test; a single source serves all three, as its draws differ.

    Raises:
        ValueError: it is none of these, or a list that cannot be stacked.
    """
    found = find(place, digests)
    if callable(found) and not isinstance(found, Source):
        found = _called(place, found, {"device": device})
    if isinstance(found, Splits):
        return found
    if isinstance(found, Source):
        return Splits(found, found, found)
    if isinstance(found, Sequence) and found and all(isinstance(t, Task) for t in found):
        return _parted(place, list(found), device)
    raise ValueError(
        f"{place} gave {type(found).__name__}, expected a Source, Splits, or a list of "
        "innerloop.Task"
    )


def check(loss_place: str, function: Any, model: nn.Module, splits: Splits) -> None:
    """Try a loss on one training task, and refuse what no step could be taken on.

    Raises:
        ValueError: it raises, or returns no scalar that a gradient can flow through.
    """
    task = splits.train.sample(torch.Generator().manual_seed(0), 1)
    weight = next(model.parameters())
    with torch.random.fork_rng(devices=[]):
        outputs = model(task.support.x[0].to(weight.device))
    y = task.support.y[0].to(weight.device)
    value = guarded(file_of(loss_place), "the loss of one task", function, outputs, y)
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        if isinstance(value, Tensor) and value.numel() == 1:
            got = "one without a gradient"
        raise ValueError(
            f"{loss_place} gave {got} for outputs {tuple(outputs.shape)} and labels "
            f"{tuple(y.shape)}; expected a scalar tensor that depends on the outputs"
        )


def _parted(place: str, tasks: list[Task], device: torch.device | str) -> Splits:
    if len(tasks) < 3:
        raise ValueError(
            f"{place} gave {len(tasks)} tasks, expected at least three: to train, validate and test"
        )
    first = max(1, int(PARTS[0] * len(tasks)))
    second = max(first + 1, int(sum(PARTS) * len(tasks)))
    train, validation, test = tasks[:first], tasks[first:second], tasks[second:]
    log.warning(
        f"{place}: {len(train)} tasks to train on, {len(validation)} to validate, {len(test)} to "
        f"test, in the order of the list; an interval needs different tasks: --tasks {len(test)}"
    )
    name = place.rpartition("/")[2]
    parts = (train, validation, test)
    made = [TaskList(part, name=name, device=device) for part in parts]
    outputs = max(source.spec.outputs for source in made)
    for source in made:  # a class may be absent from one part
        source.spec = replace(source.spec, outputs=outputs)
    return Splits(*made)


def _called(place: str, function: Any, offered: Mapping[str, Any]) -> Any:
    """The result of a person's function, given those of the `offered` arguments that it names."""
    if not callable(function):
        raise ValueError(f"{place} is {type(function).__name__}, expected a function that makes it")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature takes nothing of ours
        parameters = ()  # type: ignore[assignment]
    plain = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    missing = [p.name for p in plain if p.default is p.empty and p.name not in offered]
    if missing:
        raise ValueError(
            f"{place} needs {', '.join(missing)}; expected a function without arguments, or with "
            f"{' and '.join(offered)}"
        )
    named = {p.name: offered[p.name] for p in plain if p.name in offered}
    return guarded(file_of(place), f"{place.rpartition(':')[2]}()", function, **named)


def _check_shapes(place: str, made: nn.Module, spec: Spec, outputs: int | None) -> None:
    training = made.training
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        x = torch.zeros(2, *spec.x_shape)
        try:
            found = guarded(file_of(place), f"two inputs of shape {spec.x_shape}", made.eval(), x)
        finally:
            made.train(training)
    if outputs is None or not isinstance(found, Tensor):
        return
    if found.shape[0] != 2 or (found.dim() == 2 and found.shape[1] != outputs):
        raise ValueError(
            f"{place} gave outputs of shape {tuple(found.shape)} for two inputs of shape "
            f"{spec.x_shape}; the data needs (2, {outputs})"
        )

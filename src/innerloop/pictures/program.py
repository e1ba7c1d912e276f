"""A network as a list of tensor operations: an adapted model that needs no code to be rebuilt.

`torch.export` finds the operations, and writes them into a file that can run any code when it is
read. Here they are plain JSON, the tensors are kept beside it, and only tensor operations of
PyTorch (`aten`) and arithmetic on sizes are ever called.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import InputKind, OutputKind

ARITHMETIC: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name)
    for name in ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow")
}
"""What is done with sizes and with operations of several results."""

WORDS = frozenset({"approximate", "equation", "indexing", "mode", "padding", "rounding_mode"})
"""Arguments that may be text. Operations on files would need others."""


_TEXT = re.compile(r"\bstr\b")


class NotExportable(ValueError):
    """A network that cannot be written as a list of operations, and why."""


class Program(nn.Module):
    """The operations of `told` (see `written`) on `tensors`, which keep their names as parameters
    and buffers: its state dict is that of the network that was written.

    forward: x (n, ...) -> outputs (n, ...), for any n.

    Raises: ValueError if `told` is not such a program, names an operation that is not one of
    tensors, or a tensor that is missing.
    """

    def __init__(self, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        try:
            self._input, self._output = str(told["input"]), str(told["output"])
            self._homes = [
                (str(node), *_place(self, name, tensors[name], kind))
                for node, name, kind in told["tensors"]
            ]
            self._steps = [
                (str(node), _operation(name), args, kwargs)
                for node, name, args, kwargs in told["steps"]
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a program of tensor operations: {error}") from error
        self._dropped = self._last_uses()

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Any] = {self._input: x}
        for node, home, key in self._homes:
            values[node] = getattr(home, key)
        for (node, call, args, kwargs), done in zip(self._steps, self._dropped, strict=True):
            values[node] = call(*_read(args, values, x), **_read_each(kwargs, values, x))
            for name in done:  # as soon as a network itself would let go of it
                del values[name]
        found = values[self._output]
        assert isinstance(found, Tensor)
        return found

    def _last_uses(self) -> list[list[str]]:
        """Per step what is not needed afterwards.

        Raises: ValueError for an operation on something that is not there yet.
        """
        known = {self._input, *(node for node, _, _ in self._homes)}
        last: dict[str, int] = {}
        for i, (node, _, args, kwargs) in enumerate(self._steps):
            used = _nodes([args, kwargs])
            if not used <= known:
                raise ValueError(f"not a program: {node} uses {sorted(used - known)} before it is")
            known.add(node)
            last |= dict.fromkeys({*used, node}, i)
        if self._output not in known:
            raise ValueError(f"not a program: nothing makes its output {self._output}")
        last.pop(self._output, None)
        done: list[list[str]] = [[] for _ in self._steps]
        for node, i in last.items():
            done[i].append(node)
        return done


def written(module: nn.Module, example: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The operations of `module` on inputs like `example` (n, ...), n >= 2, as JSON, and tensors.

    The module is in eval mode and on the CPU. The tensors are parameters and buffers by their
    names, and constants that its code holds.

    Raises: NotExportable with the reason.
    """
    program = _exported(module, example)
    tensors: dict[str, Tensor] = {}
    told: dict[str, Any] = {"input": None, "output": _output(program), "tensors": [], "steps": []}
    for spec in program.graph_signature.input_specs:
        node = spec.arg.name
        if spec.kind is InputKind.USER_INPUT:
            told["input"] = node
            continue
        name, kept = str(spec.target), spec.target in program.state_dict
        value = (program.state_dict if kept else program.constants).get(name)
        if not isinstance(value, Tensor):
            raise NotExportable(f"it holds {name}, which is not a tensor")
        tensors[name] = value.detach()
        kind = "parameter" if spec.kind is InputKind.PARAMETER else "buffer" if kept else "constant"
        told["tensors"].append([node, name, kind])
    for node in program.graph.nodes:
        if node.op == "call_function" and "_assert" not in str(node.target):
            kwargs = {key: _told(value) for key, value in node.kwargs.items()}
            told["steps"].append([node.name, _name(node.target), _told(node.args), kwargs])
    return told, tensors


def _exported(module: nn.Module, example: Tensor) -> ExportedProgram:
    """The first that succeeds of running the code, and of reading it, which follows `len(x)`.

    Without gradients, as the network is used: some layers ask.
    """
    reasons = []
    for strict in (False, True):
        try:
            with _quietly(), torch.no_grad():
                many = ({0: Dim.DYNAMIC},)
                return export(module, (example,), dynamic_shapes=many, strict=strict)
        except Exception as error:  # the exporter raises whatever the network's code makes it raise
            reason = str(error).strip().partition("\n")[0]
            reasons.append(f"{type(error).__name__}: {reason}")
    raise NotExportable(f"torch.export: {'; '.join(reasons)}")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter warns of, logs and prints: its exceptions say what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        said = io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _output(program: ExportedProgram) -> str:
    specs = program.graph_signature.output_specs
    if len(specs) != 1 or specs[0].kind is not OutputKind.USER_OUTPUT:
        raise NotExportable("it has several outputs")
    name = specs[0].arg.name
    if not isinstance(name, str):
        raise NotExportable("its output is no tensor")
    return name


def _name(target: Any) -> str:
    """How an operation is written: `aten.conv2d.default`, `operator.getitem`."""
    for name, function in ARITHMETIC.items():
        if target is function:
            return f"operator.{name}"
    name = str(target)
    try:
        _operation(name)
    except ValueError as error:
        raise NotExportable(str(error)) from error
    return name


def _operation(name: Any) -> Callable[..., Any]:
    """The function that is written as `name`, if it is one that may be called.

    Raises: ValueError if it may not.
    """
    space, _, rest = str(name).partition(".")
    if space == "operator" and rest in ARITHMETIC:
        return ARITHMETIC[rest]
    operation, _, overload = rest.partition(".")
    if space == "aten" and operation.isidentifier() and overload.isidentifier():
        found = getattr(getattr(torch.ops.aten, operation, None), overload, None)
        if isinstance(found, torch._ops.OpOverload):
            arguments = found._schema.arguments
            if {a.name for a in arguments if _TEXT.search(str(a.type))} <= WORDS:
                return found
    raise ValueError(f"{name} is not an operation on tensors that a saved model may use")


def _told(value: Any) -> Any:
    """An argument as JSON: what JSON has no word for is an object with one key."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, list | tuple):
        return [_told(part) for part in value]
    if isinstance(value, torch.fx.Node):
        return {"node": value.name}
    for kind in (torch.dtype, torch.memory_format, torch.layout):
        if isinstance(value, kind):
            return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": "that of the input"}
    raise NotExportable(f"an operation takes a {type(value).__name__}")


def _read(told: Any, values: Mapping[str, Any], x: Tensor) -> Any:
    """The argument that `_told` wrote, with `values` for the results of operations."""
    if isinstance(told, list):
        return [_read(part, values, x) for part in told]
    if not isinstance(told, dict):
        return told
    ((kind, name),) = told.items()
    if kind == "node":
        return values[name]
    if kind == "float":
        return float(name)
    found = getattr(torch, str(name), None) if kind == "torch" else x.device
    if not isinstance(found, torch.dtype | torch.memory_format | torch.layout | torch.device):
        raise ValueError(f"not a program: {told} is no argument of a tensor operation")
    return found


def _read_each(told: Mapping[str, Any], values: Mapping[str, Any], x: Tensor) -> dict[str, Any]:
    return {key: _read(value, values, x) for key, value in told.items()}


def _nodes(told: Any) -> set[str]:
    """The results that an argument refers to."""
    if isinstance(told, list):
        return set().union(*map(_nodes, told))
    if not isinstance(told, dict):
        return set()
    if set(told) == {"node"}:
        return {told["node"]}
    return set().union(*map(_nodes, told.values()))


def _place(root: nn.Module, name: str, value: Tensor, kind: str) -> tuple[nn.Module, str]:
    """Register `value` under its dotted name; returns the module it is in, and its last name."""
    *folders, last = name.split(".")
    for folder in folders:
        if folder not in root._modules:
            root.add_module(folder, nn.Module())
        root = root.get_submodule(folder)
    if kind == "parameter":
        root.register_parameter(last, nn.Parameter(value))
    else:
        root.register_buffer(last, value, persistent=kind == "buffer")
    return root, last

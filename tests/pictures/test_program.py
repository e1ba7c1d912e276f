"""Networks as lists of operations: the same outputs, and nothing but operations on tensors."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from innerloop.pictures.program import NotExportable, Program, written


def rebuilt(net: nn.Module, example: Tensor) -> Program:
    told, tensors = written(net.eval(), example)
    return Program(json.loads(json.dumps(told)), {k: v.clone() for k, v in tensors.items()})


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(3, 4, batch_first=True)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.cell(x)
        h, _ = self.attend(h, h, h)
        mask = torch.full((x.shape[1],), -torch.inf, dtype=x.dtype, device=x.device)
        mask[0] = 0
        return self.head((h.mT + mask).softmax(-1).sum(-1))


NETS = {
    "convolutions": (
        nn.Sequential(
            nn.Conv2d(2, 3, 3, padding="same"), nn.BatchNorm2d(3), nn.ELU(), nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2),
        ),
        (2, 8, 8),
    ),
    "recurrent": (Recurrent(), (5, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_same_outputs_for_any_number_of_rows(name: str) -> None:
    torch.manual_seed(0)
    net, shape = NETS[name]
    net = net.double()
    net(torch.randn(4, *shape, dtype=torch.float64))  # running statistics
    program = rebuilt(net, torch.randn(2, *shape, dtype=torch.float64))
    for n in (1, 2, 5):
        x = torch.randn(n, *shape, dtype=torch.float64)
        torch.testing.assert_close(program(x), net(x), rtol=0, atol=1e-12)
    assert set(net.state_dict()) == set(program.state_dict())
    assert {k for k, _ in net.named_parameters()} == {k for k, _ in program.named_parameters()}


def test_results_are_let_go_of_after_their_last_use() -> None:
    program = rebuilt(nn.Sequential(*[nn.Linear(2, 2) for _ in range(5)]), torch.ones(2, 2))
    dropped = [name for names in program._dropped for name in names]
    assert len(dropped) == len(set(dropped)) == 1 + 5 * 2 + 4, "all but the output"


def test_what_it_writes_to_itself_it_writes_again() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            return x * self.seen

    program = rebuilt(Counting(), torch.ones(2, 2))
    assert [float(program(torch.ones(1, 1))) for _ in range(3)] == [1.0, 2.0, 3.0]


def test_several_outputs_are_refused() -> None:
    class Several(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x + 1

    with pytest.raises(NotExportable, match="several outputs"):
        written(Several(), torch.ones(2, 2))


X: dict[str, Any] = {"node": "x"}


@pytest.mark.parametrize(
    "step",
    [
        ["y", "aten.from_file.default", ["/etc/passwd", False, 10], {}],
        ["y", "torch.os.system", ["true"], {}],
        ["y", "operator.attrgetter", ["a"], {}],
        ["y", "aten.__class__.default", [X], {}],
        ["y", "aten.add.__class__", [X], {}],
        ["y", "aten.relu", [X], {}],
        ["y", "builtins.eval", ["1"], {}],
        ["y", "prim.Print.default", [X], {}],
        ["y", 3, [X], {}],
    ],
)
def test_only_operations_on_tensors_are_called(step: list[Any]) -> None:
    told = {"input": "x", "output": "y", "tensors": [], "steps": [step]}
    with pytest.raises(ValueError, match="not an operation on tensors"):
        Program(told, {})


def test_operations_on_files_are_out_of_reach() -> None:
    """Those of PyTorch that take the name of a file, whatever they are called."""
    schemas = [s for s in torch._C._jit_get_all_schemas() if s.name.startswith("aten::")]
    named = [s for s in schemas if any("filename" in a.name for a in s.arguments)]
    assert {s.name for s in named} >= {"aten::from_file", "aten::save"}, "PyTorch has renamed them"
    for schema in named:
        name = f"aten.{schema.name[6:]}.{schema.overload_name or 'default'}"
        told = {"input": "x", "output": "y", "tensors": [], "steps": [["y", name, [], {}]]}
        with pytest.raises(ValueError, match="not an operation on tensors"):
            Program(told, {})


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"input": "x", "output": "y", "tensors": [], "steps": []},
        {"input": "x", "output": "x", "tensors": [["w", "missing", True]], "steps": []},
        {"input": "x", "output": "y", "tensors": [], "steps": [["y"]]},
        {
            "input": "x",
            "output": "y",
            "tensors": [],
            "steps": [["y", "aten.relu.default", [{"node": "z"}], {}]],
        },
    ],
)
def test_damaged_programs_are_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a program"):
        Program(told, {})


def test_an_argument_is_data() -> None:
    step = ["y", "aten.zeros_like.default", [X], {"dtype": {"torch": "load"}}]
    program = Program({"input": "x", "output": "y", "tensors": [], "steps": [step]}, {})
    with pytest.raises(ValueError, match="no argument of a tensor operation"):
        program(torch.ones(1))

"""Meta-gradients of all named methods, for holding two revisions of the library together.

    python benchmarks/equal.py save FILE      writes those of the library that is imported
    python benchmarks/equal.py compare A B    their distances, into benchmarks/results/equal.md

Fixed tiny tasks in float64; names of parameters are compared without their owner's prefix, since a
piece may move from one owner to another. Run `save` once with each revision on PYTHONPATH.
"""

from __future__ import annotations

import datetime
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from innerloop import Batch, Task, methods

CLASSES = 3


class Net(nn.Module):
    """A body with batch statistics and a head, or features alone."""

    def __init__(self, head: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5))
        self.features = 5
        if head:
            self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).tanh()
        return self.head(x) if hasattr(self, "head") else x


def network(head: bool = True) -> nn.Module:
    torch.manual_seed(0)
    model = Net(head).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def tasks() -> Task:
    generator = torch.Generator().manual_seed(1)
    x, q = (torch.randn(3, 6, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    y = torch.stack([torch.randperm(6, generator=generator) % CLASSES for _ in range(3)])
    return Task(Batch(x, y), Batch(q, y))


HEADLESS = {"r2d2", "lrd2", "metaoptnet", "protonet", "matching"}
SETTINGS: dict[str, dict[str, Any]] = {
    "maml": {"lr": 0.4, "steps": 3},
    "fomaml": {"lr": 0.4, "steps": 3},
    "reptile": {"lr": 0.05, "steps": 4, "batch_size": 4},
    "imaml": {"lr": 0.2, "steps": 20, "lam": 2.0},
    "anil": {"lr": 0.4, "steps": 3},
    "boil": {"lr": 0.4, "steps": 3},
    "meta_sgd": {"lr": 0.3, "steps": 3},
    "protonet": {},
    "r2d2": {"lam": 0.5},
    "lrd2": {"lam": 0.5},
    "metaoptnet": {"label_smoothing": 0.1},
    "matching": {"reads": 2, "width": 5},
    "nil": {},
    "cavia": {"lr": 1.0, "steps": 2, "context": 3},
    "bias_transformation": {"lr": 0.3, "steps": 2, "size": 2},
    "dropgrad": {"lr": 0.3, "steps": 3},
    "sign_maml": {"lr": 0.05, "steps": 3},
    "meta_curvature": {"lr": 0.3, "steps": 3},
    "alpha_maml": {"lr": 0.3, "steps": 3},
    "meta_lstm": {"steps": 3, "hidden": 2, "batch_size": 4},
    "zeroing": {"lr": 0.3, "steps": 3},
    "proto_maml": {"lr": 0.3, "steps": 3},
    "bootstrapped": {"lr": 0.3, "steps": 3, "extra": 2},
    "hf_maml": {"lr": 0.3, "steps": 1},
    "es_maml": {"lr": 0.3, "steps": 1, "pairs": 4},
    "maml_plus_plus": {"lr": 0.3, "steps": 3, "multi_step_until": 0.5},
    "deml": {"lr": 0.3, "steps": 2, "lam": 0.5},
}
RESULT = Path(__file__).parent / "results" / "equal.md"


def build(name: str) -> Callable[[], Any]:
    def make() -> Any:
        torch.manual_seed(7)  # for what a method draws beside the network's weights
        models = [network(name not in HEADLESS)]
        if name == "deml":
            models.append(nn.Linear(5, 4).double())
        made = getattr(methods, name)(*models, **SETTINGS[name])
        return made.double()

    return make


def gradient(name: str) -> dict[str, Tensor]:
    """The meta-gradient by a name's last parts, and the loss."""
    method = build(name)()
    torch.manual_seed(3)
    beside = {}
    if name == "deml":  # its discriminator learns from labelled examples
        query = tasks().query
        beside["labelled"] = Batch(query.x.flatten(0, 1), query.y.flatten())
    found = method.meta_gradient(tasks(), **beside)
    grads = {bare(k): g for k, g in found.grads.items() if method.get_parameter(k).requires_grad}
    return {"loss": found.loss, **grads}


def bare(name: str) -> str:
    """Without what says whose parameter it is."""
    name = re.sub(r"^(learner|objective)\.", "", name)
    return re.sub(r"^(scope\.|penalty\.|inner\.\d+\.)", "", name)


def main(words: list[str]) -> None:
    if words[:1] == ["save"] and len(words) == 2:
        torch.save({name: gradient(name) for name in SETTINGS}, words[1])
    elif words[:1] == ["compare"] and len(words) == 3:
        a, b = (torch.load(file) for file in words[1:])
        lines = [
            "# Meta-gradients of the named methods, two revisions",
            "",
            f"`python benchmarks/equal.py compare`; {datetime.date.today()}, CPU, float64, tiny "
            "tasks: |g - g'| / |g| over loss and gradient.",
            "",
            "| method | distance |",
            "|---|---|",
        ]
        for name in SETTINGS:
            assert a[name].keys() == b[name].keys(), (name, a[name].keys() ^ b[name].keys())
            flat = [torch.cat([v.reshape(-1) for v in found[name].values()]) for found in (a, b)]
            one, other = flat
            lines.append(f"| {name} | {float((one - other).norm() / one.norm()):.1e} |")
            print(lines[-1])
        RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])

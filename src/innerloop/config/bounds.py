"""The ranges of numbers in a run, by the function that takes them.

A range is that of the constructor which refuses what lies outside of it: a configuration is then
refused whole, with all its mistakes, before anything is built. It stands here by function *and*
parameter, because `steps` is at least 0 for a gradient learner and at least 1 for Newton's method;
where a signature says its own range (`Annotated[float, Bound(...)]`), that one counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..core.bounds import Bound


@dataclass(frozen=True)
class Below(Bound):
    """The numbers of a `Bound` that are smaller than its `high`: shares such as 0 <= p < 1."""

    high: float = 1.0

    def holds(self, value: float) -> bool:
        """Whether `value` is one of them."""
        return super().holds(value) and value < self.high

    def __str__(self) -> str:
        low = Bound(self.low, open=self.open)
        return f"{low} and below {self.high:g}" if self.low > -math.inf else f"below {self.high:g}"


def limits(bound: Bound) -> dict[str, Any]:
    """The same range in the words of pydantic and JSON schema."""
    found: dict[str, Any] = {}
    if bound.low > -math.inf:
        found["gt" if bound.open else "ge"] = bound.low
    if bound.high < math.inf:
        found["lt" if isinstance(bound, Below) else "le"] = bound.high
    return found


COUNT = Bound(low=0)
ONE_OR_MORE = Bound(low=1)
POSITIVE = Bound(low=0, open=True)
NOT_NEGATIVE = Bound(low=0)
FRACTION = Bound(low=0, high=1)
SHARE = Below(low=0)

_DESCENT = {"lr": POSITIVE, "steps": COUNT}
_EXAMPLES = {"shot": ONE_OR_MORE, "queries": ONE_OR_MORE}
_CLASSES = {"way": Bound(low=2), **_EXAMPLES}

BOUNDS: dict[str, dict[str, Bound]] = {
    **dict.fromkeys(
        (
            *("maml", "fomaml", "anil", "boil", "meta_sgd", "alpha_maml", "sign_maml", "zeroing"),
            *("meta_curvature", "proto_maml", "pretrained", "scratch"),
        ),
        _DESCENT,
    ),
    "reptile": {**_DESCENT, "batch_size": ONE_OR_MORE},
    "imaml": {
        **_DESCENT,
        "lam": POSITIVE,
        "cg_steps": ONE_OR_MORE,
        "tolerance": POSITIVE,
        "cg_tolerance": POSITIVE,
        "cg_damping": NOT_NEGATIVE,
    },
    "maml_plus_plus": {**_DESCENT, "multi_step_until": FRACTION, "first_order_until": FRACTION},
    "bias_transformation": {**_DESCENT, "size": ONE_OR_MORE},
    "bootstrapped": {**_DESCENT, "extra": ONE_OR_MORE, "target_lr": POSITIVE},
    "cavia": {**_DESCENT, "context": ONE_OR_MORE},
    "dropgrad": {**_DESCENT, "p": SHARE},
    "es_maml": {**_DESCENT, "sigma": POSITIVE, "pairs": ONE_OR_MORE},
    "hf_maml": {**_DESCENT, "held": Below(low=0, open=True), "displacement": POSITIVE},
    "meta_lstm": {"steps": COUNT, "hidden": ONE_OR_MORE, "batch_size": ONE_OR_MORE},
    "deml": {**_DESCENT, "lam": NOT_NEGATIVE},
    "r2d2": {"lam": POSITIVE, "scale": POSITIVE},
    "lrd2": {"lam": POSITIVE, "steps": ONE_OR_MORE},
    "metaoptnet": {"c": POSITIVE, "lam": POSITIVE, "label_smoothing": SHARE},
    "matching": {"reads": ONE_OR_MORE, "width": ONE_OR_MORE, "temperature": POSITIVE},
    "mlp": {"hidden": ONE_OR_MORE, "std": POSITIVE},
    "Conv4": {"filters": ONE_OR_MORE, "blocks": ONE_OR_MORE},
    "resnet12": {
        "widths": ONE_OR_MORE,
        "drop": SHARE,
        "block_size": ONE_OR_MORE,
        "ramp_until": Bound(low=0, high=1, open=True),
    },
    "wide_resnet": {"depth": Bound(low=10), "width": ONE_OR_MORE, "drop": SHARE},
    "r2d2_net": {"widths": ONE_OR_MORE, "drop": SHARE},
    "Sine": _EXAMPLES,
    "sine_groups": _EXAMPLES,
    "linear_gaussian": {"dimension": ONE_OR_MORE, **_EXAMPLES},
    **dict.fromkeys(("glyphs", "omniglot", "prepared", "published"), _CLASSES),
    "folder": {**_CLASSES, "size": ONE_OR_MORE},
    "cub": {**_CLASSES, "size": ONE_OR_MORE},
}
"""By the name of the function, then of its parameter; of a list, the range of its entries."""

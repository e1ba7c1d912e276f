"""Every composition of the conformance suite, each entry of each meta-gradient differenced.

    python benchmarks/conformance.py [--device cuda] [--out benchmarks/results/conformance.md]

Writes a table of relative errors in float64 and exits 1 if any is out of bounds. It took
35 minutes on one core of a busy machine.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import sys
import time
from pathlib import Path

import torch

from innerloop.testing import BOUNDS, Conformance, cases, check_case, feature_cases

HEADER = (
    "composition (model / solver / ...)",
    "meta-parameters",
    "Unrolled against central differences",
    "Adjoint against Unrolled",
    "forward over reverse",
    "chunk 1 against T",
    "shuffled names",
    "symmetry of H",
    "H by differences",
    "Implicit against Unrolled",
    "first order (for scale)",
)


def cells(found: Conformance) -> list[str]:
    """One row; a bold number is out of bounds."""
    reverse = max((v for k, v in found.exact.items() if k != "forward over reverse"), default=None)
    numbers = [
        (found.dense, BOUNDS["dense"]),
        (reverse, BOUNDS["exact"]),
        (found.exact.get("forward over reverse"), BOUNDS["exact"]),
        (found.chunk if found.case.learner().call.batchable else None, BOUNDS["chunk"]),
        (found.order, BOUNDS["order"]),
        (found.symmetry, BOUNDS["symmetry"]),
        (found.difference, BOUNDS["difference"]),
        (found.implicit, BOUNDS["implicit"]),
        (found.first_order, float("inf")),
    ]
    shown = [
        "–" if value is None else f"{value:.1e}" if value <= bound else f"**{value:.1e}**"
        for value, bound in numbers
    ]
    return [found.case.name, str(found.parameters), *shown]


def table(rows: list[Conformance], device: str, seconds: float) -> str:
    """The whole page."""
    failed = [row for row in rows if row.failures()]
    worst = {
        "Unrolled against central differences": max(
            (row.dense for row in rows if row.dense is not None), default=0.0
        ),
        "every exact estimator against Unrolled": max(
            (v for row in rows for v in row.exact.values()), default=0.0
        ),
        "chunk 1 against chunk T": max(row.chunk for row in rows),
    }
    lines = [
        "# Conformance: every composition against the true meta-gradient",
        "",
        f"{datetime.date.today().isoformat()}, {device}, torch {torch.__version__}, float64, "
        f"{seconds / 60:.0f} minutes. Made by `python benchmarks/conformance.py`.",
        "",
        f"{len(rows)} compositions, {len(failed)} out of bounds. Largest errors: "
        + "; ".join(f"{k} {v:.1e}" for k, v in worst.items())
        + ".",
        "",
        "Errors are relative, in norm. Central differences (4-point) are taken of the query loss "
        "after adaptation, for every meta-parameter. "
        + "Bounds: "
        + ", ".join(f"{k} {v:.0e}" for k, v in BOUNDS.items())
        + ". A dash: torch has no forward mode for a layer, recurrent layers run "
        "with chunk 1 only, or the inner problem is not solved to "
        "its end and the implicit gradient is another one, or nothing is adapted step by step. "
        "The last column is the error of the "
        "first-order gradient: how much there was to get wrong.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
        *("| " + " | ".join(cells(row)) + " |" for row in rows),
    ]
    lines += [f"\n{row.case.name}: {'; '.join(row.failures())}" for row in failed]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/conformance.md"))
    parser.add_argument("--only", default="", help="cases whose name contains this")
    asked = parser.parse_args()
    # Unused layers and the like are logged by design; here they would only hide the progress.
    logging.getLogger("innerloop").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    begin, rows = time.perf_counter(), []
    for case in [*cases(), *feature_cases()]:
        if asked.only in case.name:
            rows.append(check_case(case, dense=True, device=asked.device))
            sys.stderr.write(f"{case.name}: {'; '.join(rows[-1].failures()) or 'conforms'}\n")
    cuda = asked.device.startswith("cuda")
    device = torch.cuda.get_device_name() if cuda else "CPU, one core"
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    draft = asked.out.with_suffix(".draft")
    draft.write_text(table(rows, device, time.perf_counter() - begin), encoding="utf-8")
    draft.replace(asked.out)
    return int(any(row.failures() for row in rows))


if __name__ == "__main__":
    sys.exit(main())

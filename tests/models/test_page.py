"""The table of docs/backbones.md: each network is built, and its numbers are those of the page."""

import re
from pathlib import Path

import pytest
import torch

from innerloop import models

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backbones.md"
ROW = re.compile(
    r"^\| `(?P<code>[^`]*)`[^|]*\| (?P<weights>[\d,]+) \| (?P<features>[\d,]+) \|", re.M
)
ROWS = [match.groups() for match in ROW.finditer(PAGE.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("code", "weights", "features"), ROWS, ids=[row[0] for row in ROWS])
def test_row(code, weights, features):
    with torch.device("meta"):
        model = eval(code.replace("(1, 1)", "(1, n)"), {**vars(models), "n": None})
    assert f"{sum(p.numel() for p in model.parameters()):,}" == weights
    assert model.features == int(features.replace(",", ""))


def test_all_rows_are_seen():
    assert len(ROWS) == 12

"""What a run has cost, beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from innerloop.cli.cost import COST, Cost, CostFile, read_cost


def test_a_damaged_file_stops_no_run(tmp_path: Path) -> None:
    (tmp_path / COST).write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        read_cost(tmp_path)
    watch = CostFile(tmp_path)
    watch({"event": "train", "step": 3, "seconds": 1.5})
    watch({"event": "checkpoint", "step": 3, "path": "x"})
    found = read_cost(tmp_path)
    assert found == Cost(3, 1.5, False, found.peak_memory)

"""What a run says of itself, from its first step on."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from innerloop.cli import progress
from innerloop.cli.progress import Progress


@pytest.mark.parametrize("terminal", [True, False])
def test_pace_and_time_left_are_shown_before_the_first_record(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=100)
    with Progress(console, "small", Path("run")) as watching:
        watching({"event": "start", "step": 0, "iterations": 100, "minutes": None})
        watching({"event": "validating", "step": 0, "done": 0, "tasks": 600})
        watching({"event": "progress", "step": 1, "step_seconds": 3.21, "left": 3723.0})
        watching({"event": "validating", "step": 1, "done": 32, "tasks": 600})
    said = " ".join(shown.getvalue().split())
    assert "3.2 s a step" in said and "1:02:03 left" in said
    assert "validating, 32 of 600 tasks" in said
    assert ("1/100" if terminal else "step 1 ") in said

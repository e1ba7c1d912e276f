"""metrics.jsonl: where it goes on, and what becomes of a damaged one."""

from __future__ import annotations

from pathlib import Path

import pytest

from innerloop.train.log import MetricsFile, read_metrics


def written(path: Path) -> dict[str, object]:
    """Steps 1 to 3, of which a checkpoint remembers the first two; a kill cuts the 4th."""
    file = MetricsFile(path, after_step=0)
    for step in (1, 2):
        file({"event": "train", "step": step, "loss": float("nan") if step == 2 else 1.0})
    position = file.position()
    file({"event": "checkpoint", "step": 2, "path": "x"})
    file({"event": "validation", "step": 2, "mse": 1.0})
    file.close()
    with path.open("ab") as end:
        end.write(b'{"event": "train", "st')
    return position


def steps(path: Path) -> list[int]:
    return [record["step"] for record in read_metrics(path)]


def test_it_goes_on_where_the_checkpoint_ends(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    position = written(path)
    begun = path.read_bytes()
    assert [r.get("loss") for r in read_metrics(path)] == [1.0, None, None]
    file = MetricsFile(path, after_step=2, written=position)
    assert not file.warnings and file.position() == position
    file({"event": "validation", "step": 2, "mse": 1.0})
    file.close()
    assert path.read_bytes() == begun[: begun.rindex(b'{"event"')]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_without_a_checkpoint_that_knows_lines_count_by_their_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path)
    file = MetricsFile(path, after_step=1)
    file.close()
    assert steps(path) == [1] and not file.warnings
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


HARM = {
    "cut": (lambda text: text[:20], []),
    "shortened": (lambda text: text[text.index(b"\n") + 1 :], [2, 2]),
    "changed": (lambda text: text.replace(b"1.0", b"1.5", 1), [1, 2, 2]),
    "no JSON": (lambda text: b"not json\n" + text, [1, 2, 2]),
    "no records": (lambda text: b"[]\n{}\n5\n" + text, [1, 2, 2]),
    "no text": (lambda text: b"\xff\x00" + text, [2, 2]),
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_file_is_kept_aside_and_said(harm: str, known: bool, tmp_path: Path) -> None:
    """Without a checkpoint that remembers the file, lines that are missing cannot be missed."""
    path = tmp_path / "metrics.jsonl"
    position = written(path)
    change, left = HARM[harm]
    path.write_bytes(harmed := change(path.read_bytes()))
    file = MetricsFile(path, after_step=2, written=position if known else None)
    file.close()
    assert steps(path) == left
    if known or harm.startswith("no "):
        (aside,) = tmp_path.glob("metrics.damaged-*.jsonl")
        assert aside.read_bytes() == harmed
        assert aside.name in file.warnings[0] and str(path) in file.warnings[0]


def test_a_file_that_is_gone_is_said(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    position = written(path)
    path.unlink()
    file = MetricsFile(path, after_step=2, written=position)
    file.close()
    assert "is gone" in file.warnings[0] and path.read_bytes() == b""


@pytest.mark.parametrize("line", ["not json", "[]", "{}", "5", "null", '{"step": "1"}'])
def test_what_is_no_record_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: (not JSON|expected a record)"):
        read_metrics(path)

"""Checkpoints that are damaged, foreign, or cannot be written."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from innerloop.train import checkpoint
from innerloop.train.checkpoint import State
from innerloop.train.weights import CheckpointError, load_weights


def net(width: int = 3) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(width)
        return nn.Linear(2, width)


def save(run_dir: Path, *steps: int, keep_last: int = 5) -> None:
    for step in steps:
        model = net()
        with torch.no_grad():
            model.bias.fill_(step)
        checkpoint.save(run_dir, model, State(step=step), keep_last)


def content(run_dir: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(run_dir.rglob("*")) if p.is_file()}


def test_the_newest_is_loaded_and_old_ones_go(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, keep_last=2)
    assert [p.name for p in checkpoint.found(tmp_path)] == ["step-00000002", "step-00000003"]
    model = net()
    state, warnings = checkpoint.load_newest(tmp_path, model)
    assert state is not None and state.step == 3 and not warnings
    assert model.bias.tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.STATE])
@pytest.mark.parametrize("damage", ["truncated", "missing", "noise"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    name: str, damage: str, tmp_path: Path
) -> None:
    save(tmp_path, 1, 2)
    file = checkpoint.found(tmp_path)[-1] / name
    data = file.read_bytes()
    file.unlink()
    if damage == "truncated":
        file.write_bytes(data[: len(data) // 2])
    if damage == "noise":
        file.write_bytes(bytes(range(256)) * 4)
    before = content(tmp_path)
    model = net()
    state, warnings = checkpoint.load_newest(tmp_path, model)
    assert state is not None and state.step == 1
    assert len(warnings) == 1 and str(file) in warnings[0]
    assert content(tmp_path) == before
    save(tmp_path, 2)  # the run gets there again: the damaged one is moved aside
    assert len(list((tmp_path / "checkpoints").glob("damaged-step-00000002-*"))) == 1
    state, warnings = checkpoint.load_newest(tmp_path, model)
    assert state is not None and state.step == 2 and not warnings


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for place in checkpoint.found(tmp_path):
        (place / checkpoint.STATE).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint of the run can be read") as error:
        checkpoint.load_newest(tmp_path, net())
    assert "step-00000001" in str(error.value) and "step-00000002" in str(error.value)


def test_a_foreign_model_is_refused_and_left_alone(tmp_path: Path) -> None:
    save(tmp_path, 1)
    before = content(tmp_path)
    model = net(4)
    kept = model.weight.clone()
    with pytest.raises(CheckpointError, match=r"bias: shape \(3,\) where this model has \(4,\)"):
        checkpoint.load_newest(tmp_path, model)
    assert torch.equal(model.weight, kept)
    with pytest.raises(CheckpointError, match=r"0\.weight: missing"):
        checkpoint.load_newest(tmp_path, nn.Sequential(net()))
    assert content(tmp_path) == before


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="not written by innerloop"):
        load_weights(path, net())


def test_state_loads_with_weights_only(tmp_path: Path) -> None:
    save(tmp_path, 7)
    loaded = torch.load(checkpoint.found(tmp_path)[0] / checkpoint.STATE, weights_only=True)
    assert loaded["step"] == 7


@pytest.fixture
def small_files() -> Iterator[None]:
    """The disk is full after 200 bytes of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_old_checkpoint(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    save(tmp_path, 1)
    before = content(tmp_path)
    request.getfixturevalue("small_files")
    with pytest.raises(CheckpointError, match=r"could not write .*last good one.*step-00000001"):
        save(tmp_path, 2)
    with pytest.raises(CheckpointError, match="the older file stays"):
        checkpoint.save_best(tmp_path, nn.Linear(100, 100), State(step=2, best_step=2))
    assert content(tmp_path) == before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match=r"could not write .*there is no earlier one"):
        save(tmp_path, 1)


def test_tied_weights_are_stored_under_both_names(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    checkpoint.save(tmp_path, model, State(step=1), 1)
    other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    other[1].weight = other[0].weight
    checkpoint.load_newest(tmp_path, other)
    assert torch.equal(other[1].weight, model[0].weight)


def test_which_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights for 'best'.*innerloop train"):
        checkpoint.weights_of(tmp_path)
    save(tmp_path, 1, 2)
    assert checkpoint.weights_of(tmp_path, "best").parent.name == "step-00000002"
    assert checkpoint.weights_of(tmp_path, "1").parent.name == "step-00000001"
    checkpoint.save_best(tmp_path, net(), State(step=2, best_step=2, best_score=0.5))
    assert checkpoint.weights_of(tmp_path, "best").parent.name == "best"
    assert checkpoint.weights_of(tmp_path, "last").parent.name == "step-00000002"
    with pytest.raises(FileNotFoundError, match=r"'9'.*\(1, 2\)"):
        checkpoint.weights_of(tmp_path, "9")


def test_drafts_of_a_killed_save_are_cleared(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "checkpoints" / ".draft-1").mkdir()
    (tmp_path / "checkpoints" / ".draft-1" / "model.safetensors").write_bytes(b"half")
    checkpoint.clear_drafts(tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]

"""Checkpoints that are damaged, foreign, or cannot be written."""

from __future__ import annotations

import pickle
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from innerloop.train import checkpoint
from innerloop.train.checkpoint import State
from innerloop.train.weights import CheckpointError, load_weights, read_weights, write_weights


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


NOISE = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "noise": lambda data: bytes(range(256)) * 4,
    "text": lambda data: b"hello\n",  # a KeyError from torch's reader
    "another pickle": lambda data: pickle.dumps({"step": 2, "rng": [None]}),
    "a huge header": lambda data: b"\xff" * 16,
}


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.STATE])
@pytest.mark.parametrize("damage", ["missing", *NOISE])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    name: str, damage: str, tmp_path: Path
) -> None:
    save(tmp_path, 1, 2)
    file = checkpoint.found(tmp_path)[-1] / name
    data = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(NOISE[damage](data))
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


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.STATE])
def test_no_flipped_bit_is_loaded(name: str, tmp_path: Path) -> None:
    """Some 200 of each file, spread over all of its bytes' positions."""
    save(tmp_path, 1, 2)
    file = checkpoint.found(tmp_path)[-1] / name
    data = file.read_bytes()
    model = net()
    stride = 8 * len(data) // 200 | 1  # odd: every position within a byte comes
    for bit in range(0, 8 * len(data), stride):
        harmed = bytearray(data)
        harmed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(harmed)
        state, warnings = checkpoint.load_newest(tmp_path, model)
        assert state is not None and state.step == 1 and len(warnings) == 1, bit


def test_a_state_that_cannot_be_restored_gives_way(tmp_path: Path) -> None:
    """Whole, but not of this run: what its optimiser raises is of any type."""
    save(tmp_path, 1, 2)
    taken = []

    def restore(state: State) -> None:
        taken.append(state.step)
        if state.step == 2:
            raise KeyError("param_groups")

    model = net()
    state, warnings = checkpoint.load_newest(tmp_path, model, restore)
    assert state is not None and state.step == 1 and taken == [2, 1]
    assert model.bias.tolist() == [1.0, 1.0, 1.0]
    assert "not the state of this run ('param_groups')" in warnings[0]


def test_weights_and_state_of_two_steps_do_not_mix(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    one, two = checkpoint.found(tmp_path)
    (two / checkpoint.STATE).write_bytes((one / checkpoint.STATE).read_bytes())
    for said in ("not those that were written", "state.sha256 is missing"):
        state, warnings = checkpoint.load_newest(tmp_path, net())
        assert state is not None and state.step == 1 and said in warnings[0]
        (two / checkpoint.STATE_DIGEST).unlink(missing_ok=True)
    (two / checkpoint.STATE_DIGEST).write_bytes((one / checkpoint.STATE_DIGEST).read_bytes())
    state, warnings = checkpoint.load_newest(tmp_path, net())
    assert state is not None and state.step == 1 and "weights of step 2, state 1" in warnings[0]


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    model, facts = nn.Sequential(net(), nn.BatchNorm1d(3)), {"b": "1", "a": "2", "step": "3"}
    files = [tmp_path / str(i) for i in range(4)]
    for file in files:
        write_weights(file, model, dict(reversed(facts.items())) if file.name == "0" else facts)
    assert len({file.read_bytes() for file in files}) == 1
    tensors, read = read_weights(files[0])
    assert read == facts and tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(v, tensors[k]) for k, v in model.state_dict().items())
    with safetensors.safe_open(files[0], framework="pt") as file:  # others can read it, too
        assert torch.equal(file.get_tensor("0.bias"), model[0].bias)


def earlier_checkpoint(run_dir: Path, step: int) -> None:
    """As versions before digests wrote it."""
    place = run_dir / "checkpoints" / f"step-{step:08d}"
    place.mkdir(parents=True)
    header = {"format": "innerloop-checkpoint-1", "step": str(step)}
    safetensors.torch.save_file(net().state_dict(), place / checkpoint.WEIGHTS, header)
    content = {
        "format": "innerloop-checkpoint-1", "step": step, "seconds": 1.0, "optimizer": {},
        "window": {}, "best_score": 0.5, "best_step": 1, "rng": None,
    }  # fmt: skip
    torch.save(content, place / checkpoint.STATE)


def test_checkpoints_of_earlier_versions_are_read(tmp_path: Path) -> None:
    earlier_checkpoint(tmp_path, 1)
    earlier_checkpoint(tmp_path, 2)
    file = checkpoint.found(tmp_path)[-1] / checkpoint.STATE
    state, warnings = checkpoint.load_newest(tmp_path, net())
    assert state is not None and not warnings
    assert (state.step, state.validated, state.metrics, state.best_step) == (2, 2, None, 1)
    # Nothing vouches for their bytes, and whatever their reader says of others is a warning.
    for harmed in (b"hello\n", pickle.dumps([1]), pickle.dumps({"format": 1}), b"\x80\x02K\x01."):
        file.write_bytes(harmed)
        state, warnings = checkpoint.load_newest(tmp_path, net())
        assert state is not None and state.step == 1 and len(warnings) == 1


def test_what_a_validation_found_is_added(tmp_path: Path) -> None:
    save(tmp_path, 1)
    found = State(step=1, validated=1, best_score=-0.25, best_step=1, metrics={"bytes": 3})
    checkpoint.save_validation(tmp_path, found)
    state, _ = checkpoint.load_newest(tmp_path, net())
    assert state == found
    file = checkpoint.found(tmp_path)[0] / checkpoint.VALIDATION
    for harmed in (b"", b"[]", b"null", file.read_bytes().replace(b"-0.25", b"-0.35")):
        file.write_bytes(harmed)
        state, warnings = checkpoint.load_newest(tmp_path, net())
        assert state == State(step=1) and not warnings, "the run validates again"
    checkpoint.save_validation(tmp_path, State(step=7, validated=7))
    assert len(checkpoint.found(tmp_path)) == 1


def test_the_newest_is_that_of_the_largest_number(tmp_path: Path) -> None:
    save(tmp_path, 99_999_999, 100_000_000, keep_last=1)
    assert [p.name for p in checkpoint.found(tmp_path)] == ["step-100000000"]
    save(tmp_path, 99_999_999)
    state, _ = checkpoint.load_newest(tmp_path, net())
    assert state is not None and state.step == 100_000_000


def test_a_kill_while_old_ones_are_deleted_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(place: Path, ignore_errors: bool = False) -> None:
        (Path(place) / checkpoint.WEIGHTS).unlink()
        raise KeyboardInterrupt

    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2, keep_last=1)
    assert [p.name for p in checkpoint.found(tmp_path)] == ["step-00000002"]
    checkpoint.clear_drafts(tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_damaged_best_weights_stop_no_run(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save_ranked(tmp_path, net(), step, float(step), 2)
    file = tmp_path / "best" / "step-00000002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="step-00000002"):
        checkpoint.best_of(tmp_path, 2)
    checkpoint.save_ranked(tmp_path, net(), 3, 0.5, 2)
    assert [p.name[5:13] for p in checkpoint.best_of(tmp_path, 2)] == ["00000001", "00000003"]
    assert len(list((tmp_path / "best").glob("damaged-step-00000002*"))) == 1


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
    for name in (".cost.json.x1", ".draft-metrics.jsonl", ".config.yaml.x2", ".evaluation.json.x3"):
        (tmp_path / name).write_text("half")
    checkpoint.clear_drafts(tmp_path)
    left = [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert left == [".evaluation.json.x3"], "another command may be writing it"
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_weights_of_earlier_versions_are_read_under_their_new_names(tmp_path: Path) -> None:
    """MAML++, a learned penalty and a discriminator kept their parameters elsewhere."""
    from innerloop.train.weights import WITHOUT_DIGEST

    written = {
        "learner.model.0.weight": torch.ones(1),
        "learner.later.0/weight": torch.full((1,), 2.0),
        "learner.penalty.lam.log": torch.full((1,), 3.0),
        "discriminator.weight": torch.full((1,), 4.0),
    }
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(written, path, {"format": WITHOUT_DIGEST, "step": "1"})
    found, facts = read_weights(path)
    assert facts == {"step": "1"}
    assert {k: float(v) for k, v in found.items()} == {
        "learner.model.0.weight": 1.0,
        "learner.scope.later.0/weight": 2.0,
        "learner.inner.1.lam.log": 3.0,
        "objective.discriminator.weight": 4.0,
    }

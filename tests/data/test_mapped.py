import mmap
import multiprocessing
import os
import pickle

import numpy as np
import pytest
import torch

from innerloop.data.images.episodes import Episodes
from innerloop.data.mapped import MappedRows
from innerloop.data.pool import ClassPool, with_rotated_classes
from innerloop.data.pool_writer import _header

from .conftest import make_pool


def saved(path, array):
    np.save(path, array)
    return path


@pytest.fixture
def array(rng):
    return torch.randint(0, 256, (30, 3, 5, 4), dtype=torch.uint8, generator=rng)


def in_memory_and_on_disk(path, pool):
    np.save(path, pool.images.numpy())
    parts = (pool.label, pool.class_names, pool.class_group, pool.group_names)
    return pool, ClassPool(MappedRows(path), *parts)


def test_rows_are_those_of_the_array(tmp_path, array, rng):
    rows = MappedRows(saved(tmp_path / "a.npy", array.numpy()))
    assert rows.shape == array.shape and rows.dtype == torch.uint8 and len(rows) == 30
    index = torch.randint(30, (50,), generator=rng)
    assert torch.equal(rows.read(index), array[index])
    assert rows.read(index[:0]).shape == (0, 3, 5, 4)
    assert torch.equal(rows.to("cpu"), array)


def test_views_of_views_and_negatives(tmp_path, array):
    rows = MappedRows(saved(tmp_path / "a.npy", array.numpy()))
    odd = rows[torch.arange(1, 30, 2)]
    some = odd.inverted()[torch.tensor([4, 0, 4])]
    assert some.shape == (3, 3, 5, 4) and some.nbytes == 180
    assert torch.equal(some.to("cpu"), 255 - array[[9, 1, 9]])
    assert torch.equal(odd.read(torch.tensor([2])), array[5:6])
    assert torch.equal(some.inverted().read(torch.arange(3)), array[[9, 1, 9]])


def test_rows_of_a_table(tmp_path, rng):
    table = torch.randn(40, 7, generator=rng)
    rows = MappedRows(saved(tmp_path / "a.npy", table.numpy()))
    assert rows.dtype == torch.float32 and torch.equal(
        rows.read(torch.tensor([39, 3])), table[[39, 3]]
    )
    assert torch.equal(rows.inverted().read(torch.tensor([7])), 1 - table[7:8])


def test_rows_that_are_not_there_are_refused(tmp_path, array):
    rows = MappedRows(saved(tmp_path / "a.npy", array.numpy()))
    for index in ([0, 30], [-1]):
        with pytest.raises(IndexError, match=r"must lie in \[0, 30\)"):
            rows.read(torch.tensor(index))


def test_reading_does_not_touch_the_other_rows(tmp_path):
    """A file far larger than memory: a hole of 1 TB with three rows written."""
    shape, path = (100_000, 10_000_000), tmp_path / "a.npy"
    header = _header(shape, np.dtype("uint8"))
    try:
        with path.open("wb") as file:
            file.write(header)
            for row in (3, 70_000, 99_999):
                file.seek(len(header) + row * shape[1])
                file.write(bytes([row % 251]) * 100)
            file.truncate(len(header) + shape[0] * shape[1])
    except OSError as error:
        pytest.skip(f"this file system has no files with holes of 1 TB ({error})")
    rows = MappedRows(path)
    assert rows.nbytes == 10**12
    read = rows[torch.tensor([99_999, 3])].read(torch.tensor([1, 0]))
    assert read[:, 0].tolist() == [3, 99_999 % 251] and read[:, 100].tolist() == [0, 0]


def test_a_pickled_map_is_a_path(tmp_path, rng):
    pool = make_pool(sizes=(500,) * 4, side=32)
    _, mapped = in_memory_and_on_disk(tmp_path / "a.npy", pool)
    part = mapped.select([2, 0]).inverted()
    data = pickle.dumps(part)
    assert len(data) < 0.05 * pool.images.numel()  # labels and row numbers only
    again = pickle.loads(data)
    index = torch.randint(len(part), (20,), generator=rng)
    assert torch.equal(again.images.read(index), part.images.read(index))
    assert again.images._map is not part.images._map


def test_worker_processes_draw_the_same_tasks(tmp_path):
    """Each opens a map of its own."""
    _, mapped = in_memory_and_on_disk(tmp_path / "a.npy", make_pool())
    source = Episodes(mapped, way=3, shot=1, queries=2)
    with multiprocessing.get_context("spawn").Pool(1) as workers:
        theirs = workers.apply(drawn, (source,))
    assert np.array_equal(theirs, drawn(source))


def drawn(source):
    return source.sample(torch.Generator().manual_seed(5), 4).query.x.numpy()


@pytest.mark.parametrize("settings", [{}, {"rotate": "augment"}, {"augment": "flip-shift"}])
def test_tasks_from_disk_are_tasks_from_memory(tmp_path, settings):
    pools = in_memory_and_on_disk(tmp_path / "a.npy", make_pool(side=8, channels=3))
    first, second = (
        Episodes(
            pool.select([5, 1, 3, 0]).inverted(), way=3, shot=1, queries=2, device="cpu", **settings
        )
        for pool in pools
    )
    expected, found = (s.sample(torch.Generator().manual_seed(1), 9) for s in (first, second))
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and b.x.dtype == torch.float32
    assert first.describe() == second.describe() and first.spec == second.spec


def test_a_pool_moves_into_memory_when_it_is_told_to(tmp_path):
    pool, mapped = in_memory_and_on_disk(tmp_path / "a.npy", make_pool())
    source = Episodes(mapped, way=3, shot=1, queries=2, device="cpu")
    assert isinstance(source.pool.images, MappedRows)
    assert torch.equal(mapped.to("cpu").images, pool.images)
    with pytest.raises(ValueError, match=r'four times; read them with pool.to\("cpu"\)'):
        with_rotated_classes(mapped)


def test_images_that_do_not_fit_stay_where_they_are(tmp_path, array, monkeypatch):
    rows = MappedRows(saved(tmp_path / "a.npy", array.numpy()))

    def full(*shape, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(ValueError, match="do not fit on cuda:1; leave them on disk"):
        rows.to("cuda:1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an .npy file"),
        (b"PK\x03\x04 something else", "is not an .npy file .*np.save"),
        (b"\x93NUMPY\x09\x00 nothing", "is not an .npy file .*version 9.0"),
        (b"\x93NUMPY\x01\x00\x0d\x00{'descr': 1}\n", "is not an .npy file"),
    ],
)
def test_files_that_are_something_else_are_refused(tmp_path, content, message):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        MappedRows(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 2)), r"holds float64, expected uint8 .*array.astype\(np.float32\)"),
        (np.zeros((3, 2), ">f4"), "holds >f4, expected uint8"),
        (np.zeros((3, 2), np.int64), "holds int64"),
        (np.asfortranarray(np.zeros((3, 2), np.uint8)), "Fortran order.*ascontiguousarray"),
        (np.zeros(3, np.uint8), r"rows of shape \(N, ...\), got shape \(3,\)"),
        (np.zeros((0, 2), np.uint8), r"got shape \(0, 2\)"),
    ],
)
def test_arrays_that_cannot_be_mapped_are_refused(tmp_path, array, message):
    with pytest.raises(ValueError, match=message):
        MappedRows(saved(tmp_path / "a.npy", array))


def test_files_of_another_length_are_refused(tmp_path, array):
    path = saved(tmp_path / "a.npy", array.numpy())
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(ValueError, match=rf"cut short: {size} bytes for .*got {size - 1}; copy or"):
        MappedRows(path)
    os.truncate(path, size + 5)
    with pytest.raises(ValueError, match="too long"):
        MappedRows(path)
    with pytest.raises(FileNotFoundError, match="no array file"):
        MappedRows(tmp_path / "b.npy")


def test_a_file_that_changes_under_its_readers_is_refused(tmp_path, array):
    """Reading a page that is no longer there would end the process by a signal."""
    path = saved(tmp_path / "a.npy", array.numpy())
    rows = MappedRows(path)
    data = pickle.dumps(rows)
    os.truncate(path, mmap.PAGESIZE // 4)
    with pytest.raises(ValueError, match="had 1928 bytes when it was opened, now 1024; prepare"):
        rows.read(torch.tensor([29]))
    np.save(path, array[:7].numpy())
    with pytest.raises(ValueError, match="had 1928 bytes when it was first opened, now 548"):
        pickle.loads(data)

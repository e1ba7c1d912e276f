"""Pickles: arrays of every kind come back, and nothing that they name is ever called."""

import collections
import io
import pickle
import pickletools
import subprocess
import sys

import numpy as np
import pytest

from innerloop.data.readers import read_pickle

ARRAYS = {
    "uint8": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "big endian": np.arange(5, dtype=">i4"),
    "float": np.linspace(0, 1, 7, dtype=np.float32),
    "bool": np.array([True, False]),
    "text": np.array(["a", "long word"]),
    "bytes": np.array([b"ab", b"c"]),
    "empty": np.zeros((0, 3), np.uint8),
    "no axes": np.array(4, np.int16),
}


def saved(tmp_path, content, protocol):
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_everything_that_data_sets_hold(tmp_path, protocol):
    content = {
        "arrays": ARRAYS,
        "names": ["n01532829", b"raw", 3, -(2**70), 2.5, None, True],
        b"rows": {"n0": [0, 1], "n1": (2, 3)},
        "scalars": [np.int64(7), np.float32(0.5), np.uint8(255)],
    }
    found = read_pickle(saved(tmp_path, content, protocol))
    arrays = found.pop("arrays")
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)
    expected = {k: v for k, v in content.items() if k != "arrays"}
    assert found == {**expected, "scalars": [7, 0.5, 255]}


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_arrays_of_objects_become_lists(tmp_path, protocol):
    files = np.empty(2, object)
    files[0], files[1] = np.arange(3, dtype=np.uint8), np.arange(2, dtype=np.uint8)
    found = read_pickle(saved(tmp_path, files, protocol))
    assert isinstance(found, list) and [part.tolist() for part in found] == [[0, 1, 2], [0, 1]]


def test_files_of_python_2(tmp_path):
    """Its texts are bytes: this one was put together opcode by opcode, as Python 2 writes them."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87R"
        b"(K\x01K\x02K\x02\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x04\x00\x7f\x80\xfftb"
    )
    path = tmp_path / "two.pkl"
    path.write_bytes(b"\x80\x02}U\x04data" + array + b"s.")
    pickletools.dis(path.read_bytes(), out=io.StringIO())  # it is a well-formed pickle
    np.testing.assert_array_equal(read_pickle(path)["data"], np.array([[0, 127], [128, 255]]))
    with path.open("rb") as file:
        plain = pickle.load(file, encoding="latin1")
    np.testing.assert_array_equal(plain["data"], read_pickle(path)["data"])


class Shell:
    """Unpickling an instance runs a command."""

    def __reduce__(self):
        code = "open('ran', 'w').close()"
        return subprocess.call, ([sys.executable, "-c", code],)


class Evaluated:
    def __reduce__(self):
        return eval, ("__import__('os').system('touch ran')",)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (Shell(), r"(subprocess|commands)\.call"),
        ({"data": [Evaluated()]}, "eval"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (np.dtype([("a", "i4")]), "array of"),
        (np.zeros(2, [("a", "i4")]), "array of"),
        (np.zeros(2, complex), "c16"),
        (np.array(["2020-01-01"], "M8[D]"), "M8"),
        ({1, 2}, "set"),
        (np.ma.masked_array([1, 2]), "numpy.ma"),
        (np.sum, "numpy"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_anything_else_is_refused_and_not_run(tmp_path, monkeypatch, content, word, protocol):
    path = saved(tmp_path, content, protocol)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=word) as caught:
        read_pickle(path)
    assert str(path) in str(caught.value) and "could run code" in str(caught.value)
    assert not (tmp_path / "ran").exists()


HOSTILE = {
    "attributes of what is known": b"\x80\x02cnumpy\nndarray\n}U\x01aU\x01bs\x86b.",
    "slots of what is known": b"\x80\x02cnumpy\nndarray\nN}U\x01aU\x01bs\x86b.",
    "the class called": b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
    "made without arguments": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "another kind of array": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nK\x01K\x02K\x03\x87R.",
    "objects in raw bytes": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R\x89U\x08AAAAAAAAtb."
    ),
    "more pixels than bytes": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01M\xff\xff\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R\x89U\x08AAAAAAAAtb."
    ),
    "another codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.",
    "a persistent name": b"\x80\x02U\x01aQ.",
    "an extension": b"\x80\x02\x82\x01.",
    "itself": b"\x80\x02]q\x00h\x00a.",
    "nothing left": b"\x80\x02.",
    "cut short": pickle.dumps({"data": ARRAYS["uint8"]}, 2)[:-20],
    "empty": b"",
    "text": b"filename,label\n",
    # numpy's own dtype takes this for an object, and its array eight bytes for a pointer to one
    "a pointer in raw bytes": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02V8K\x00K\x01\x87R(K\x03U\x01|NU\x01a\x85}U\x01a"
        b"cnumpy\ndtype\nU\x01OK\x00K\x01\x87RK\x00\x86sK\x08K\x01K\x00tb\x89U\x08AAAAAAAAtb."
    ),
    # small files that would cost gigabytes or minutes
    "a memo slot far ahead": b"\x80\x02Nr\xff\xff\xff\x1f.",
    "a memo slot far ahead, in text": b"Np536870911\n.",
    "a memo slot below zero": b"Np-1\n.",
    "a memo slot for a mark": b"\x80\x02N(q\x00.",
    "bytes that are not there": b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00.",
    "zeros that are not there": b"\x80\x05\x96\xff\xff\xff\xff\x0f\x00\x00\x00.",
    "a frame that is not there": b"\x80\x04\x95\xff\xff\xff\xff\x0f\x00\x00\x00N.",
    "a length below zero": b"\x80\x02T\xff\xff\xff\xff.",
    "lists of lists of lists": (
        b"\x80\x02]"
        + b"".join(b"q%c]" % k + b"(" + b"h%c" % k * 12 + b"e" for k in range(9))
        + b"."
    ),
    # hashing it overflows the interpreter's stack
    "tuples as deep as the file": b"\x80\x02}N" + b"\x85" * 2_000_000 + b"K\x01s.",
    "tuples as deep as the file, by the memo": (
        b"\x80\x02}N"
        + b"".join(b"\x85r%s0j%s" % ((k.to_bytes(4, "little"),) * 2) for k in range(200_000))
        + b"K\x01s."
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_and_damaged_files(tmp_path, name):
    path = tmp_path / "bad.pkl"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ValueError, match=r"bad\.pkl"):
        read_pickle(path)
    np.testing.assert_array_equal(  # nothing was changed for the next file
        read_pickle(saved(tmp_path, ARRAYS["uint8"], 2)), ARRAYS["uint8"]
    )


NAMES = (
    b"numpy\nndarray",
    b"numpy\ndtype",
    b"numpy.core.multiarray\n_reconstruct",
    b"numpy._core.multiarray\nscalar",
    b"numpy._core.numeric\n_frombuffer",
    b"_codecs\nencode",
    b"builtins\nbytes",
)
STATES = (b"}U\x0c__setstate__Ns", b"N}U\x07__new__Ns\x86", b"N}U\x05KINDSNs\x86", b"}N\x86")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("made", [b"", b")\x81"], ids=["class", "instance"])
def test_nothing_that_is_known_can_be_changed(tmp_path, name, state, made):
    path = tmp_path / "bad.pkl"
    path.write_bytes(b"\x80\x02c" + name + b"\n" + made + state + b"b.")
    with pytest.raises(ValueError, match=r"bad\.pkl"):
        read_pickle(path)
    for protocol in (0, 2, 5):
        found = read_pickle(saved(tmp_path, [ARRAYS["uint8"], b"", np.float32(2)], protocol))
        np.testing.assert_array_equal(found[0], ARRAYS["uint8"])
        assert found[1:] == [b"", 2.0]


def test_one_list_in_two_places_is_read(tmp_path):
    rows = [1, 2, 3, "text"]
    assert read_pickle(saved(tmp_path, {"a": rows, "b": rows}, 4)) == {"a": rows, "b": rows}


def test_no_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        read_pickle(tmp_path / "gone.pkl")

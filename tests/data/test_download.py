"""Downloads from a server in this process: whole and checked, or not there, and what is said."""

import errno
import hashlib
import http.server
import os
import stat
import threading
from contextlib import contextmanager

import pooch
import pytest

from innerloop.data.download import fetch
from innerloop.data.images.omniglot_prepare import prepare_omniglot

from .conftest import real, tiny_files, write_zip


class Files(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; can hang up in the middle of an answer, or answer with an error."""

    def do_GET(self):
        self.server.asked.append(self.path)
        data = self.server.files.get(self.path.lstrip("/"))
        if data is None:
            return self.send_error(404)
        if self.server.errors:
            return self.send_error(self.server.errors.pop())
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.server.hang_ups:
            data = data[: self.server.hang_ups.pop()]
            self.close_connection = True
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@contextmanager
def serving(files, *, hang_ups=(), errors=()):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    server.files, server.asked = files, []
    server.hang_ups, server.errors = list(hang_ups), list(errors)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


DATA = bytes(range(256)) * 2000
SHA = hashlib.sha256(DATA).hexdigest()


def test_a_whole_file_arrives(tmp_path):
    seen = []
    with serving({"f.zip": DATA}) as (_, url):
        fetch(url + "f.zip", tmp_path / "f.zip", sha256=SHA, progress=lambda *p: seen.append(p))
    assert (tmp_path / "f.zip").read_bytes() == DATA
    assert [p.name for p in tmp_path.iterdir()] == ["f.zip"]
    assert seen[-1] == ("downloading f.zip", len(DATA), len(DATA))


def test_nothing_is_said_but_by_the_callback(tmp_path, capfd):
    with serving({"f.zip": DATA}) as (_, url):
        fetch(url + "f.zip", tmp_path / "f.zip", sha256=SHA)
    assert capfd.readouterr() == ("", "")
    assert stat.S_IMODE((tmp_path / "f.zip").stat().st_mode) == 0o644


def test_a_transfer_that_breaks_off_leaves_nothing_and_can_be_repeated(tmp_path):
    path = tmp_path / "new" / "f.zip"
    with serving({"f.zip": DATA}, hang_ups=[200_000]) as (_, url):
        with pytest.raises(ConnectionError, match="run the same command to try again, or put the"):
            fetch(url + "f.zip", path)
        assert list(path.parent.iterdir()) == []
        fetch(url + "f.zip", path)
    assert path.read_bytes() == DATA


def test_what_the_server_answers_is_said(tmp_path):
    with serving({"f.zip": DATA}, errors=[503]) as (_, url):
        with pytest.raises(ConnectionError, match="the server answers 503"):
            fetch(url + "f.zip", tmp_path / "f.zip")
        with pytest.raises(ConnectionError, match=r"answers 404 .*check the .*other\.zip"):
            fetch(url + "other.zip", tmp_path / "other.zip")
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_it_is_said_where_to_put_the_file(tmp_path):
    with serving({}) as (_, url):
        pass  # nobody listens there any more
    with pytest.raises(ConnectionError, match=f"put the file at {tmp_path}/f.zip yourself"):
        fetch(url + "f.zip", tmp_path / "f.zip")


def test_a_full_disk_is_said_with_the_path(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", full)
    with pytest.raises(OSError, match=r"f\.zip cannot be written .*No space left.*make room"):
        fetch("http://127.0.0.1/f.zip", tmp_path / "f.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_none_is_said_with_the_path(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        serving({"f.zip": DATA}) as (_, url),
        pytest.raises(OSError, match=r"file/f\.zip cannot be written"),
    ):
        fetch(url + "f.zip", tmp_path / "file" / "f.zip")


def test_a_wrong_hash_leaves_nothing(tmp_path):
    with (
        serving({"f.zip": DATA + b"x"}) as (_, url),
        pytest.raises(ValueError, match=f"f.zip: SHA256 hash .* expected sha256:{SHA} but got"),
    ):
        fetch(url + "f.zip", tmp_path / "f.zip", sha256=SHA)
    assert list(tmp_path.iterdir()) == []


def test_only_the_web_is_fetched_from(tmp_path):
    with pytest.raises(ValueError, match="http or https"):
        fetch("file:///etc/hostname", tmp_path / "x")


def test_prepare_downloads_once_and_reports(tmp_path):
    name = "images_background_tiny.zip"
    data = write_zip(tmp_path / name, tiny_files()).read_bytes()
    with serving({name: data}) as (server, url):
        report = prepare_omniglot(None, tmp_path / "out", urls={name: url + name})
        prepare_omniglot(None, tmp_path / "out", urls={name: url + name})
        assert server.asked == [f"/{name}"]
    assert report.characters == 6 and report.path == tmp_path / "out" / "omniglot.npz"
    assert "its SHA-256 is not known here" in report.checks[0]


def test_prepare_downloads_the_genuine_small_zip(tmp_path):
    name = "images_background_small1.zip"
    data = real("omniglot", name).read_bytes()
    with serving({name: data}) as (_, url):
        report = prepare_omniglot(None, tmp_path, urls={name: url + name})
    assert report.characters == 136 and report.partial
    assert report.checks == (f"{name}: SHA-256 is as known",)

import hashlib
import http.server
import re
import threading
from contextlib import contextmanager

import pytest

from innerloop.data.download import fetch
from innerloop.data.images.omniglot_prepare import prepare_omniglot

from .conftest import real, tiny_files, write_zip


class Files(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; supports ranges, and can hang up in the middle of an answer."""

    def do_GET(self):
        self.server.ranges.append(self.headers.get("Range"))
        data = self.server.files.get(self.path.lstrip("/"))
        if data is None:
            return self.send_error(404)
        if self.server.errors:
            return self.send_error(self.server.errors.pop())
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and self.server.supports_ranges:
            start = int(asked[1])
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.server.hang_ups:
            data = data[: start + self.server.hang_ups.pop()]
            self.close_connection = True
        self.wfile.write(data[start:])

    def log_message(self, *args):
        pass


@contextmanager
def serving(files, *, supports_ranges=True, hang_ups=(), errors=()):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    server.files, server.supports_ranges, server.ranges = files, supports_ranges, []
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


def test_a_broken_transfer_goes_on_where_it_stopped(tmp_path):
    with serving({"f.zip": DATA}, hang_ups=[200_000, 100_000]) as (server, url):
        fetch(url + "f.zip", tmp_path / "f.zip", sha256=SHA, wait=0)
    assert (tmp_path / "f.zip").read_bytes() == DATA
    assert server.ranges == [None, "bytes=100000-", "bytes=300000-"]


def test_a_later_call_goes_on_from_the_kept_part(tmp_path):
    path = tmp_path / "f.zip"
    with serving({"f.zip": DATA}, hang_ups=[5000]) as (_, url):
        with pytest.raises(ConnectionError, match=r"5000 bytes kept .* run the same command"):
            fetch(url + "f.zip", path, attempts=1)
        assert not path.exists()
        fetch(url + "f.zip", path, sha256=SHA)
    assert path.read_bytes() == DATA


def test_a_complete_part_is_recognised(tmp_path):
    (tmp_path / "f.zip.part").write_bytes(DATA)
    with serving({"f.zip": DATA}) as (server, url):
        fetch(url + "f.zip", tmp_path / "f.zip", sha256=SHA)
    assert (tmp_path / "f.zip").read_bytes() == DATA
    assert server.ranges == [f"bytes={len(DATA)}-"]


def test_a_part_longer_than_the_file_is_thrown_away(tmp_path):
    (tmp_path / "f.zip.part").write_bytes(DATA + b"more")
    with serving({"f.zip": DATA}) as (_, url):
        fetch(url + "f.zip", tmp_path / "f.zip", sha256=SHA, wait=0)
    assert (tmp_path / "f.zip").read_bytes() == DATA


def test_without_ranges_it_starts_again(tmp_path):
    with serving({"f.zip": DATA}, supports_ranges=False, hang_ups=[1000]) as (_, url):
        fetch(url + "f.zip", tmp_path / "f.zip", sha256=SHA, wait=0)
    assert (tmp_path / "f.zip").read_bytes() == DATA


def test_server_errors_are_tried_again_and_missing_files_are_not(tmp_path):
    with serving({"f.zip": DATA}, errors=[503, 500]) as (server, url):
        fetch(url + "f.zip", tmp_path / "f.zip", wait=0)
        assert len(server.ranges) == 3
        with pytest.raises(ConnectionError, match="the server answers 404"):
            fetch(url + "other.zip", tmp_path / "other.zip", wait=0)
        assert len(server.ranges) == 4


def test_a_wrong_hash_leaves_nothing(tmp_path):
    with (
        serving({"f.zip": DATA + b"x"}) as (_, url),
        pytest.raises(ValueError, match=f"SHA-256 should be {SHA}, got"),
    ):
        fetch(url + "f.zip", tmp_path / "f.zip", sha256=SHA)
    assert list(tmp_path.iterdir()) == []


def test_only_the_web_is_fetched_from(tmp_path):
    with pytest.raises(ValueError, match="http or https"):
        fetch("file:///etc/hostname", tmp_path / "x")


def test_prepare_downloads_resumes_and_reports(tmp_path):
    name = "images_background_tiny.zip"
    data = write_zip(tmp_path / name, tiny_files()).read_bytes()
    with serving({name: data}, hang_ups=[9000]) as (server, url):
        report = prepare_omniglot(None, tmp_path / "out", urls={name: url + name})
        assert server.ranges == [None, "bytes=9000-"]
        prepare_omniglot(None, tmp_path / "out", urls={name: url + name})
        assert len(server.ranges) == 2
    assert report.characters == 6 and report.path == tmp_path / "out" / "omniglot.npz"
    assert "its SHA-256 is not known here" in report.checks[0]


def test_prepare_downloads_the_genuine_small_zip(tmp_path):
    name = "images_background_small1.zip"
    data = real("omniglot", name).read_bytes()
    urls_hang_up = len(data) // 2
    with serving({name: data}, hang_ups=[urls_hang_up]) as (server, url):
        report = prepare_omniglot(None, tmp_path, urls={name: url + name})
        assert server.ranges == [None, f"bytes={urls_hang_up}-"]
    assert report.characters == 136 and report.partial
    assert report.checks == (f"{name}: SHA-256 is as known",)
    assert not list(tmp_path.glob("*.part"))

"""Files from the network: resumed where they broke off, checked, and put in place whole."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

Progress = Callable[[str, int, int], None]
"""Called with what is going on, how much is done and how much there is (0 when unknown)."""

_BLOCK = 1 << 16


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    attempts: int = 5,
    wait: float = 1.0,
    timeout: float = 30.0,
) -> None:
    """Download `url` to `path`, which appears only when it is complete and right.

    What has arrived is kept in `path` + `.part`; a broken transfer goes on from there, in this
    call (`attempts` times without a new byte, `wait` seconds apart, doubled each time) or in a
    later one, when the server supports ranges.

    Raises ConnectionError when the file cannot be had, ValueError when its SHA-256 is not
    `sha256`; the part is removed then, so that the next call starts afresh.
    """
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"expected an http or https address, got {url!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer(url, part, progress, timeout)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500:
                raise ConnectionError(
                    f"{url}: the server answers {error.code} {error.reason}; check the address, or "
                    f"fetch the file by other means and put it at {path}"
                ) from error
            reason: Exception = error
        except (OSError, http.client.HTTPException) as error:
            reason = error
        failures = 1 if _size(part) > before else failures + 1
        if failures >= attempts:
            raise ConnectionError(
                f"{url}: {reason} ({attempts} attempts, {_size(part)} bytes kept in {part}); run "
                f"the same command to go on, or put the file at {path} yourself"
            ) from reason
        time.sleep(wait * 2 ** (failures - 1))
    if sha256 is not None:
        found = file_sha256(part)
        if found != sha256:
            part.unlink()
            raise ValueError(
                f"{url}: SHA-256 should be {sha256}, got {found}; the file was changed or damaged "
                "on the way, and has been removed"
            )
    os.replace(part, path)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _transfer(url: str, part: Path, progress: Progress | None, timeout: float) -> None:
    """One request: from the end of `part` if the server agrees, from the start if not."""
    have = _size(part)
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        if _total(error.headers.get("Content-Range")) == have:
            return
        part.unlink()
        raise ConnectionError("the kept part does not fit the file, starting afresh") from error
    with answer:
        resumed = answer.status == 206
        if resumed and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            raise ConnectionError("the server sent another range than asked for, starting afresh")
        done = have if resumed else 0
        length = int(answer.headers.get("Content-Length") or 0)
        total = done + length if length else 0
        with part.open("ab" if resumed else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                done += len(block)
                if progress is not None:
                    progress(f"downloading {part.stem}", done, total)
    if total and done != total:
        raise ConnectionError(f"the transfer broke off after {done} of {total} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _total(content_range: str | None) -> int | None:
    match = re.fullmatch(r"bytes \*/(\d+)", content_range or "")
    return int(match[1]) if match else None

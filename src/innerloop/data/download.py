"""Files from the network, by pooch: checked against their hash, there whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

Progress = Callable[[str, int, int], None]
"""Called with what is going on, how much is done and how much there is (0 when unknown)."""

TIMEOUT = 30.0
"""Seconds without a byte from the server after which a download is given up."""

_BLOCK = 1 << 16


def fetch(
    url: str, path: Path, *, sha256: str | None = None, progress: Progress | None = None
) -> None:
    """Download `url` to `path`, which appears only when it is complete and right.

    Raises ConnectionError when the file cannot be had, ValueError when its SHA-256 is not
    `sha256`, OSError when it cannot be written; nothing is left behind then.
    """
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"expected an http or https address, got {url!r}")
    # Only who downloads pays for the import, a quarter of a second.
    import pooch
    import requests

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # it would tell on stderr what `progress` tells
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(
            url,
            known_hash=None if sha256 is None else f"sha256:{sha256}",
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(
                progressbar=False if progress is None else _Bar(path.name, progress),
                chunk_size=_BLOCK,
                timeout=TIMEOUT,
            ),
        )
        path.chmod(0o644)  # it was a temporary file, which only its owner can read
    except requests.HTTPError as error:
        raise ConnectionError(
            f"{url}: the server answers {error}; check the address, or fetch the file by other "
            f"means and put it at {path}"
        ) from error
    except requests.RequestException as error:
        raise ConnectionError(
            f"{url}: {error}; run the same command to try again, or put the file at {path} yourself"
        ) from error
    except ValueError as error:
        raise ValueError(f"{url}: {error}") from error
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error}); make room, or say where to write to"
        ) from error
    finally:
        logger.setLevel(level)


class _Bar:
    """What pooch moves as it goes, which is all that it asks of a progress bar."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.name, self.progress = name, progress
        self.total = self.done = 0

    def update(self, size: int) -> None:
        self.done = min(self.done + size, self.total) if self.total else self.done + size
        self.progress(f"downloading {self.name}", self.done, self.total)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        """Nothing was opened."""


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Fetch a file and check that it is the right one."""

import hashlib
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from ssl_prune.utils.files import replacing

__all__ = ["fetch_file"]


def fetch_file(urls: Sequence[str], path: Path, md5: str, timeout: float = 30.0) -> Path:
    """Fetch the first of `urls` that answers with the right bytes, unless `path` exists.

    Args:
        urls: mirrors, tried in their order.
        path: file to write; its folder is made. It appears only when it is whole.
        md5: expected checksum in hexadecimal. It finds damage, not malice.
        timeout: seconds without an answer before the next mirror.

    Returns:
        `path`.

    Raises:
        OSError: no mirror gave the file; the message has the reason of each.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for url in urls:
        try:
            with replacing(path) as part:
                _copy(url, part, timeout)
                _check(part, md5)
            return path
        except (OSError, ValueError) as error:
            reasons.append(f"\n  {url}: {error}")
    raise OSError(f"{path.name} could not be fetched.{''.join(reasons)}\nFetch it by other means and put it at {path}.")


def _copy(url: str, part: Path, timeout: float) -> None:
    with urllib.request.urlopen(url, timeout=timeout) as answer, part.open("wb") as file:
        shutil.copyfileobj(answer, file)


def _check(part: Path, md5: str) -> None:
    with part.open("rb") as file:
        got = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if got != md5:
        raise ValueError(f"MD5 is {got}, expected {md5}")

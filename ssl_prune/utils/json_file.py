"""Results as JSON."""

import json
import os

from ssl_prune.utils.files import replacing

__all__ = ["write_json"]


def write_json(path: str | os.PathLike[str], obj: object) -> None:
    """Write an object as indented JSON, the whole file or nothing.

    Args:
        path: the file; its folder must exist.
        obj: dicts with string keys, lists, strings, finite numbers, booleans and None.

    Raises:
        TypeError: something in it is not plain data.
        ValueError: a number is infinite or not a number: JSON has no such value, use None.
        FileNotFoundError: the folder does not exist.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "result.json"
        >>> write_json(path, {"macs": 0.5})
        >>> json.loads(path.read_text())
        {'macs': 0.5}
    """
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")

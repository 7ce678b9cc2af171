"""Write a file whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and move it onto `path` when the block succeeds.

    A reader of `path` sees the old file or the new one, never a part of it. When the block raises, the part that was
    written is removed and the old file stays. The yielded path has the suffix of `path`, because many writers choose
    the format from it.

    Args:
        path: The file to write. Its folder must exist.

    Yields:
        A path in the same folder; the block must create a file there.

    Raises:
        FileNotFoundError: The folder does not exist, or the block wrote nothing.
        IsADirectoryError: `path` is a folder.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "numbers.txt"
        >>> with replacing(target) as part:
        ...     _ = part.write_text("1 2 3")
        ...     target.exists()
        False
        >>> target.read_text()
        '1 2 3'
    """
    # A link is followed: the file it points at is replaced, not the link.
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {target}: it is a folder. Name a file in it.")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: the folder {target.parent} does not exist. Create it first.")
    # A plain name and not tempfile: its files are readable by their owner only, whatever the umask says.
    part = target.with_name(f".{uuid.uuid4().hex[:12]}.part{target.suffix}")
    try:
        part.touch()
        mode = part.stat().st_mode
        part.unlink()
        yield part
        if not part.is_file():
            raise FileNotFoundError(f"nothing was written for {target}: the block must create the file {part}.")
        os.chmod(part, mode)  # some writers make files of their own that nobody else can read
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)

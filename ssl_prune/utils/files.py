"""Write a file whole or not at all, and find out before the work whether it can be written."""

import glob
import hashlib
import os
import socket
import stat
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["begin_anew", "beside", "refuse_over", "refuse_unwritable", "replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and move it onto `path` when the block succeeds.

    A reader of `path` sees the old file or the new one, never a part of it. When the block raises, the part that was
    written is removed and the old file stays; the part of a process that was killed goes with the next one that writes
    the file. A file that is replaced hands its mode on. The yielded path has the suffix of `path`, because many writers choose
    the format from it.

    Args:
        path: the file to write. Its folder must exist.

    Yields:
        A path in the same folder; the block must create a file there.

    Raises:
        FileNotFoundError: the folder does not exist, or the block wrote nothing.
        OSError: it cannot be written: see `refuse_unwritable`.

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
    refuse_unwritable(target)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: the folder {target.parent} does not exist. Create it first.")
    _clear_left_over(target)
    part = _part_of(target)
    try:
        part.touch()
        mode = (target if target.exists() else part).stat().st_mode
        part.unlink()
        yield part
        if not part.is_file():
            raise FileNotFoundError(f"nothing was written for {target}: the block must create the file {part}.")
        os.chmod(part, stat.S_IMODE(mode))  # some writers make files of their own that nobody else can read
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _part_of(target: Path) -> Path:
    """A new name beside the target: whose part it is, and which process on which machine writes it."""
    # A plain name and not tempfile: its files are readable by their owner only, whatever the umask says.
    return target.with_name(f"{_parts_of(target)}{os.getpid()}-{uuid.uuid4().hex[:8]}.part{target.suffix}")


def _parts_of(target: Path) -> str:
    return f".{_short(target.name)}-{_short(socket.gethostname())}-"


def _clear_left_over(target: Path) -> None:
    """Remove the parts of this file that processes of this machine left which were killed."""
    start = _parts_of(target)
    for file in target.parent.glob(f"{glob.escape(start)}*.part{glob.escape(target.suffix)}"):
        number = file.name.removeprefix(start).partition("-")[0]
        if number.isdecimal() and not _runs(int(number)):
            file.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def beside(path: str | os.PathLike[str], endings: Sequence[str], what: str = "path") -> tuple[Path, ...]:
    """A file and those that are written beside it under its name, each with an ending of its own.

    Args:
        path: the file.
        endings: of the others, with the dot.
        what: how the message calls the path.

    Raises:
        TypeError: `path` is no path.
        ValueError: it has no name, is an address, or two of the files would be one, so that the later would replace the
            earlier.

    Example:
        >>> [file.as_posix() for file in beside("runs/net.safetensors", [".json", ".png"])]
        ['runs/net.safetensors', 'runs/net.json', 'runs/net.png']
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{what} must be the path of a file, got {path!r}")
    if "://" in os.fspath(path):
        raise ValueError(f"{what} must be a file of this machine, got {os.fspath(path)!r}")
    if Path(path).name in ("", ".."):
        raise ValueError(f"{what} must name a file, got the folder {os.fspath(path)!r}")
    files = (Path(path), *(Path(path).with_suffix(ending) for ending in endings))
    twice = [file for file, count in Counter(files).items() if count > 1]
    if twice:
        raise ValueError(
            f"{what} {os.fspath(path)!r}: {twice[0]} would be written twice, because files that end in "
            f"{', '.join(endings)} are written beside it; give it another ending"
        )
    return files


def begin_anew(files: Sequence[str | os.PathLike[str]]) -> None:
    """Take away what an earlier run left beside its first file, before that one is replaced.

    So a process that is killed between two files never leaves one of them beside another run's.

    Args:
        files: the first, which stays until it is replaced, and those beside it.

    Example:
        >>> begin_anew(["no-such-net.safetensors", "no-such-net.json"])
    """
    for file in files[1:]:
        Path(file).unlink(missing_ok=True)


def refuse_over(files: Sequence[str | os.PathLike[str]], source: str | os.PathLike[str], what: str = "path") -> None:
    """Raise where one of the files to write is the one that is read.

    Args:
        files: to write.
        source: to read.
        what: how the message calls the path.

    Raises:
        ValueError: it is.

    Example:
        >>> refuse_over(["net.safetensors"], "net.pt")
    """
    for file in files:
        if os.path.realpath(file) == os.path.realpath(source) or (
            os.path.exists(file) and os.path.exists(source) and os.path.samefile(file, source)
        ):
            raise ValueError(
                f"{what} {os.fspath(file)!r}: got the file that is read, {os.fspath(source)!r}, which it would replace; "
                "expected another one"
            )


def refuse_unwritable(path: str | os.PathLike[str]) -> None:
    """Raise now what writing the file would raise after all the work; folders that are missing will be made.

    A file is written to its folder, or to the one in which that would be made, and is gone again.

    Args:
        path: the file that will be written.

    Raises:
        IsADirectoryError: it is a folder.
        NotADirectoryError: a file stands where a folder has to be.
        PermissionError: the folder, or the one in which it would be made, takes no files.
        OSError: it is a device or a pipe, which a file would take the place of; a name is too long; the disk is full.

    Example:
        >>> import tempfile
        >>> refuse_unwritable(tempfile.mkdtemp() + "/runs/1/net.safetensors")
    """
    target = Path(os.path.realpath(path))
    try:
        if target.is_dir():
            raise IsADirectoryError(f"cannot write {target}: it is a folder. Name a file in it.")
        if target.exists() and not target.is_file():
            raise OSError(f"cannot write {target}: it is a device or a pipe, which a file would replace. Name a file.")
        folder = next(parent for parent in target.parents if parent.exists())
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(f"cannot write {target}: {error.strerror}. Name another file.") from error
    if not folder.is_dir():
        raise NotADirectoryError(f"cannot write {target}: {folder} is a file, not a folder. Name another folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write {target}: the folder {folder} takes no files. Name another folder.")
    trial = folder / _part_of(target).name
    try:
        with open(trial, "xb", buffering=0) as file:
            trial.unlink()
            file.write(bytes(_TRIAL))
    except OSError as error:
        raise OSError(
            f"cannot write {target}: the folder {folder} takes no file ({error.strerror}). Name another folder."
        ) from error


_TRIAL = 4096  # bytes: a full disk still takes names

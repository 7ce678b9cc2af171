"""Find the files of a data set, or say where they were looked for."""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["find_file"]


def find_file(root: Path, folders: Sequence[str], names: Sequence[str], dataset: str) -> Path:
    """Return the first of `names` that lies in one of `folders` of `root`, or in `root` itself.

    Args:
        root: the folder that the user gave.
        folders: paths below `root`, the usual one first.
        names: file names, the best one first.
        dataset: name for the message.

    Returns:
        The path of an existing file.

    Raises:
        FileNotFoundError: there is none; the message lists the places and the ways out.
    """
    places = [*(root / folder for folder in folders), root]
    for place in places:
        for name in names:
            if (place / name).is_file():
                return place / name
    looked = "".join(f"\n  {place}{'' if place.is_dir() else ' (no such folder)'}" for place in places)
    raise FileNotFoundError(
        f"{dataset}: no file {' or '.join(names)} in any of{looked}\n"
        f"Set download to true, or copy the files to {places[0]}, or set root to the folder that has them."
    )

"""Where callbacks write, looked at before anything is trained."""

import os
from collections.abc import Sequence
from pathlib import Path

from ssl_prune._lightning import pl
from ssl_prune.utils.files import beside, refuse_unwritable

__all__ = ["Writes"]


class Writes:
    """A callback that writes a file when training has ended, and others beside it."""

    path: str | os.PathLike[str] | None
    files: tuple[Path, ...]

    def write_to(self, path: str | os.PathLike[str] | None, endings: Sequence[str]) -> None:
        """Take the path; None: nothing is written.

        Raises:
            TypeError: it is no path.
            ValueError: it has no name, or one of the files beside it would replace another.
        """
        self.path = path
        self.files = () if path is None else beside(path, endings, f"{type(self).__name__}: path")

    def target(self, trainer: pl.Trainer) -> Path | None:
        """The file; relative paths count from the trainer's `default_root_dir`."""
        return None if self.path is None else Path(trainer.default_root_dir) / self.path

    def refuse_targets(self, trainer: pl.Trainer) -> None:
        """Raise before training what would be lost after it.

        Raises:
            ValueError: a callback before this one writes one of its files, or a relative path would count from a folder that
                is not on this machine.
            OSError: the file cannot be written there.
        """
        root = Path(trainer.default_root_dir)
        if "://" in str(trainer.default_root_dir) and any(not file.is_absolute() for file in self.files):
            raise ValueError(
                f"{type(self).__name__}: path={str(self.path)!r} counts from default_root_dir={str(trainer.default_root_dir)!r}, "
                "expected a folder of this machine; give an absolute path"
            )
        own = {os.path.realpath(root / file) for file in self.files}
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if other is self:
                break
            if isinstance(other, Writes):
                both = own & {os.path.realpath(root / file) for file in other.files}
                if both:
                    raise ValueError(
                        f"{type(self).__name__}: {type(other).__name__} writes {min(both)} too; give one of them another path"
                    )
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.refuse_unwritable(trainer)

    def say_what_is_replaced(self, trainer: pl.Trainer) -> None:
        """Warn, at the start of training, of a file of another run; one that goes on writes its own again."""
        trial = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        if trial or trainer.global_step or trainer.ckpt_path is not None:
            return
        root = Path(trainer.default_root_dir)
        there = next((root / file for file in self.files if (root / file).exists()), None)
        if there is not None:
            pl.utilities.rank_zero_warn(
                f"{type(self).__name__}: {there} is there already, and what this run writes will replace it; give another path "
                "to keep both"
            )

    def refuse_unwritable(self, trainer: pl.Trainer) -> None:
        """Raise OSError where one of the files cannot be written."""
        for file in self.files:
            refuse_unwritable(Path(trainer.default_root_dir) / file)

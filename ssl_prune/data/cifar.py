"""CIFAR-10."""

import os
import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ssl_prune.data.augment import crop_and_flip
from ssl_prune.data.base import ImageData
from ssl_prune.data.download import fetch_file
from ssl_prune.data.labels import check_labels
from ssl_prune.data.locate import find_file
from ssl_prune.utils.files import replacing

__all__ = ["CIFAR10"]

FOLDER = "cifar-10-batches-bin"
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = ("test_batch.bin",)
RECORD = 1 + 3 * 32 * 32
RECORDS = 10_000


class CIFAR10(ImageData):
    """60,000 colour pictures of 32x32 pixels in ten classes; see `ImageData` for the other arguments.

    The six files of the binary version lie in `root/cifar-10-batches-bin` or directly in `root`.

    Args:
        root: folder of the data.
        batch_size: images a batch and process.
        validation: training images kept for validation: a number, or as a float a share. With 0 there is no validation.
        subset: use only this many training images, for small runs.
        num_workers: processes that load; 0 is the fastest for small networks.
        download: fetch missing files, 162 MiB.
        augment: shift the training images by up to four pixels and mirror every second one.
        standardise: subtract the mean and divide by the deviation of the pixels; else they are shares of the largest.

    Example:
        >>> CIFAR10(root="data", augment=False).input_shape
        (3, 32, 32)

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    input_shape = (3, 32, 32)
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    mirrors: ClassVar[tuple[str, ...]] = ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
    md5: ClassVar[str] = "c32a1d4ab5d03f1284b67883e8d87530"

    def __init__(
        self,
        root: str | os.PathLike[str] = "data",
        batch_size: int = 128,
        validation: int | float = 0.1,
        subset: int | None = None,
        num_workers: int = 0,
        download: bool = False,
        augment: bool = True,
        standardise: bool = True,
    ) -> None:
        super().__init__(root, batch_size, validation, subset, num_workers, download, standardise)
        self.augment = crop_and_flip if augment else None

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return the images ``(N, 3, 32, 32)`` and labels ``(N,)`` of the training or the test set."""
        parts = [read_batch(self._find(name)) for name in (TRAIN if train else TEST)]
        return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])

    def fetch(self) -> None:
        """Download the archive and unpack its six files, unless they are there."""
        try:
            for name in (*TRAIN, *TEST):
                self._find(name)
        except FileNotFoundError:
            archive = fetch_file(self.mirrors, self.root / "cifar-10-binary.tar.gz", self.md5)
            unpack(archive, self.root / FOLDER)

    def _find(self, name: str) -> Path:
        return find_file(self.root, [FOLDER], [name], "CIFAR-10")


def read_batch(path: Path) -> tuple[Tensor, Tensor]:
    """Read one file of the binary version: 10,000 records of a label and 3072 pixels, red, green and blue plane.

    Args:
        path: the file.

    Returns:
        Images ``(10000, 3, 32, 32)`` uint8 and labels ``(10000,)`` int64.

    Raises:
        ValueError: the file has the wrong size or a label above 9.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
    """
    size = path.stat().st_size
    if size != RECORDS * RECORD:
        raise ValueError(f"{path} has {size} bytes, expected {RECORDS * RECORD}. Delete it and fetch it again.")
    records = torch.from_numpy(np.fromfile(path, np.uint8)).view(RECORDS, RECORD)
    labels = records[:, 0].long()
    check_labels(labels, RECORDS, 10, str(path))
    return records[:, 1:].reshape(RECORDS, 3, 32, 32), labels


def unpack(archive: Path, folder: Path) -> None:
    """Write the six files of the archive to `folder`; nothing else in it is touched.

    Args:
        archive: the `.tar.gz` of the binary version.
        folder: where to write; it is made.

    Raises:
        ValueError: a file is missing in the archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = {*TRAIN, *TEST}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            source = tar.extractfile(member) if name in missing else None
            if source is not None:
                with replacing(folder / name) as part:
                    part.write_bytes(source.read())
                missing.remove(name)
    if missing:
        raise ValueError(f"{archive} has no {', '.join(sorted(missing))}. Delete it and fetch it again.")

"""MNIST and Fashion-MNIST."""

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from ssl_prune.data.base import ImageData
from ssl_prune.data.download import fetch_file
from ssl_prune.data.idx import read_idx
from ssl_prune.data.labels import check_labels
from ssl_prune.data.locate import find_file

__all__ = ["MNIST", "FashionMNIST"]


class MNIST(ImageData):
    """70,000 handwritten digits of 28x28 pixels.

    The four IDX files, plain or gzipped, lie in `root/MNIST/raw`, as torchvision puts them, or directly in `root`.

    Args:
        root: folder of the data.
        batch_size: images a batch and process.
        validation: training images kept for validation: a number, or as a float a share. With 0 there is no validation.
        subset: use only this many training images, for small runs.
        num_workers: processes that load; 0 is the fastest.
        download: fetch missing files, 11 MiB.
        standardise: subtract the mean and divide by the deviation of the pixels; else they are shares of the largest.

    Example:
        >>> MNIST(root="data", validation=5000).input_shape
        (1, 28, 28)

    Source: LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998.
    """

    input_shape = (1, 28, 28)
    mean = (0.1307,)
    std = (0.3081,)
    folder: ClassVar[str] = "MNIST"
    mirrors: ClassVar[tuple[str, ...]] = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    }

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return the images ``(N, 1, 28, 28)`` and labels ``(N,)`` of the training or the test set."""
        part = "train" if train else "t10k"
        images = self._read(f"{part}-images-idx3-ubyte", dims=3)
        labels = self._read(f"{part}-labels-idx1-ubyte", dims=1).long()
        if images.shape[1:] != self.input_shape[1:]:
            raise ValueError(
                f"{self.folder}: the images of {part} have {tuple(images.shape[1:])} pixels, "
                f"expected {self.input_shape[1:]}: they are of another data set."
            )
        check_labels(labels, len(images), self.num_classes, f"{self.folder} {part}")
        return images.unsqueeze(1), labels

    def fetch(self) -> None:
        """Download the gzipped files that are not there."""
        for name, md5 in self.md5.items():
            try:
                self._find(name)
            except FileNotFoundError:
                urls = [f"{mirror}{name}.gz" for mirror in self.mirrors]
                fetch_file(urls, self.root / self.folder / "raw" / f"{name}.gz", md5)

    def _read(self, name: str, dims: int) -> Tensor:
        return read_idx(self._find(name), dims)

    def _find(self, name: str) -> Path:
        return find_file(self.root, [f"{self.folder}/raw", self.folder, "raw"], [name, f"{name}.gz"], self.folder)


class FashionMNIST(MNIST):
    """70,000 pictures of clothes of 28x28 pixels, in the files and classes of MNIST.

    The four IDX files lie in `root/FashionMNIST/raw`, as torchvision puts them, or directly in `root`.

    Args:
        root: folder of the data.
        batch_size: images a batch and process.
        validation: training images kept for validation: a number, or as a float a share. With 0 there is no validation.
        subset: use only this many training images, for small runs.
        num_workers: processes that load; 0 is the fastest.
        download: fetch missing files, 30 MiB.
        standardise: subtract the mean and divide by the deviation of the pixels; else they are shares of the largest.

    Example:
        >>> FashionMNIST(root="data").num_classes
        10

    Source: Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017.
    """

    mean = (0.2860,)
    std = (0.3530,)
    folder = "FashionMNIST"
    mirrors = (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    )
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    }

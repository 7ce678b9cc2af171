"""What the data sets have in common: splits, loaders, resuming."""

import os
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ssl_prune._lightning import pl
from ssl_prune.data.split import stratified_order, validation_count
from ssl_prune.data.tensors import ImageTensors, as_it_is

__all__ = ["ImageData"]

SPLIT_SEED = 20160812


class ImageData(pl.LightningDataModule):
    """A data set of small images, held in memory as bytes.

    The validation images come from the training set by a fixed, stratified shuffle, the same in every process and run.
    The test set is used for testing and predicting only. A checkpoint keeps the state of torch's generator, so that a
    run resumed at the end of an epoch sees the same batches as one that was not interrupted. With several processes it
    is not restored, because all of them would draw the same numbers.

    A data set is a subclass that states the class attributes and writes `read`.

    Args:
        root: folder of the data.
        batch_size: images a batch and process.
        validation: training images kept for validation: a number, or as a float a share. With 0 there is no validation.
        subset: use only this many training images, for small runs. The validation images stay the same.
        num_workers: processes that load; 0 is the fastest for most of these sets.
        download: fetch missing files.
        standardise: subtract the mean and divide by the deviation of the pixels; else they are shares of the largest.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> class Noise(ImageData):
        ...     input_shape, mean, std = (1, 4, 4), (0.5,), (0.25,)
        ...
        ...     def read(self, train):
        ...         return torch.zeros(40, 1, 4, 4, dtype=torch.uint8), torch.arange(40) % 10
        >>> data = Noise(batch_size=8, validation=10)
        >>> data.setup("fit")
        >>> len(data.train_set), len(data.val_set)
        (30, 10)
    """

    num_classes: int = 10
    input_shape: tuple[int, int, int]
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]
    peak: ClassVar[float] = 255.0

    def __init__(
        self,
        root: str | os.PathLike[str] = "data",
        batch_size: int = 128,
        validation: int | float = 0.1,
        subset: int | None = None,
        num_workers: int = 0,
        download: bool = False,
        standardise: bool = True,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1.")
        if subset is not None and subset < 1:
            raise ValueError(f"subset is {subset}, expected at least 1, or None for all training images.")
        self.root = Path(root)
        self.batch_size = batch_size
        self.validation = validation
        self.subset = subset
        self.num_workers = num_workers
        self.download = download
        self.standardise = standardise
        self.augment: Callable[[Tensor], Tensor] | None = None
        self.train_set: ImageTensors | None = None
        self.val_set: ImageTensors | None = None
        self.test_set: ImageTensors | None = None

    @abstractmethod
    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return the images ``(N, C, H, W)`` uint8 and the labels ``(N,)`` int64 of the training or the test set.

        Args:
            train: the training set; else the test set.
        """

    def fetch(self) -> None:
        """Download what is missing; called in one process."""

    def prepare_data(self) -> None:
        """Download the files, if that was asked for."""
        if self.download:
            self.fetch()

    def setup(self, stage: str | None = None) -> None:
        """Read what the stage needs and was not read before."""
        if stage in (None, "fit", "validate") and self.train_set is None:
            images, labels = self.read(train=True)
            order = stratified_order(labels, SPLIT_SEED)
            count = validation_count(self.validation, len(order))
            held, rest = order[:count], order[count:]
            if self.subset is not None and self.subset > len(rest):
                raise ValueError(f"subset is {self.subset}, but only {len(rest)} images are left for training.")
            rest = rest[: self.subset]
            self.train_set = self._tensors(images[rest], labels[rest], self.augment)
            self.val_set = self._tensors(images[held], labels[held])
        if stage in (None, "test", "predict") and self.test_set is None:
            self.test_set = self._tensors(*self.read(train=False))

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches, in a new order each epoch."""
        return self._loader(self.train_set, "fit", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the validation batches; an empty list if `validation` is 0."""
        return [] if self.val_set is not None and not len(self.val_set) else self._loader(self.val_set, "validate")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the batches of the test set."""
        return self._loader(self.test_set, "test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the batches of the test set."""
        return self._loader(self.test_set, "predict")

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator that orders and augments the images."""
        return {"generator": torch.get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the generator, so that the next epoch has the batches that it would have had."""
        if self.trainer is None or self.trainer.world_size == 1:
            torch.set_rng_state(state_dict["generator"].cpu())

    def _tensors(
        self, images: Tensor, labels: Tensor, augment: Callable[[Tensor], Tensor] | None = None
    ) -> ImageTensors:
        mean, std = (self.mean, self.std) if self.standardise else ([0.0] * len(self.mean), [1.0] * len(self.std))
        return ImageTensors(images, labels, mean, std, self.peak, augment)

    def _loader(self, data: ImageTensors | None, stage: str, shuffle: bool = False) -> DataLoader[Any]:
        if data is None:
            raise RuntimeError(f'{type(self).__name__} is not read yet: call setup("{stage}") first.')
        return DataLoader(
            data,
            batch_size=self.batch_size,  # by its name: Lightning builds some loaders again and passes it by name too
            shuffle=shuffle,
            num_workers=self.num_workers,
            collate_fn=as_it_is,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )

"""The 8x8 digits of scikit-learn: no download, an epoch in a fraction of a second."""

import torch
from torch import Tensor

from ssl_prune.data.base import SPLIT_SEED, ImageData
from ssl_prune.data.labels import check_labels
from ssl_prune.data.split import stratified_order

__all__ = ["Digits"]

TEST_IMAGES = 360


class Digits(ImageData):
    """1,797 handwritten digits of 8x8 pixels with 17 grey values, 360 of them for testing.

    Training, validation and test set are stratified and always the same.

    Args:
        batch_size: images a batch and process.
        validation: training images kept for validation: a number, or as a float a share. With 0 there is no validation.
        subset: use only this many training images.
        num_workers: processes that load; 0 is the fastest.
        standardise: subtract the mean and divide by the deviation of the pixels; else they are shares of the largest.

    Example:
        >>> data = Digits(batch_size=32)
        >>> data.setup("fit")
        >>> x, y = next(iter(data.train_dataloader()))
        >>> x.shape, y.shape
        (torch.Size([32, 1, 8, 8]), torch.Size([32]))

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """

    input_shape = (1, 8, 8)
    mean = (0.3053,)
    std = (0.3760,)
    peak = 16.0

    def __init__(
        self,
        batch_size: int = 128,
        validation: int | float = 0.1,
        subset: int | None = None,
        num_workers: int = 0,
        standardise: bool = True,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            validation=validation,
            subset=subset,
            num_workers=num_workers,
            standardise=standardise,
        )

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return the images ``(N, 1, 8, 8)`` and labels ``(N,)`` of the training or the test set."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError(
                'Digits are part of scikit-learn, which is not installed: pip install "ssl-prune[cli]".'
            ) from error
        digits = load_digits()
        images = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)
        labels = torch.from_numpy(digits.target).long()
        check_labels(labels, len(images), self.num_classes, "Digits")
        order = stratified_order(labels, SPLIT_SEED)
        index = order[TEST_IMAGES:] if train else order[:TEST_IMAGES]
        return images[index], labels[index]

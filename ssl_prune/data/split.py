"""Which images train and which validate."""

import torch
from torch import Tensor

__all__ = ["stratified_order", "validation_count"]


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """Return an order of the images in which every beginning has the classes in the shares of the whole.

    The image of rank r among the n of its class stands at (r + 1/2) / n of the way; the ranks are random.

    Args:
        labels: ``(N,)`` integers.
        seed: of a generator of its own: the order is the same in every process and run.

    Returns:
        ``(N,)`` int64, a permutation.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> labels[stratified_order(labels, seed=0)].tolist()
        [0, 1, 0, 0, 1, 0]
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    classes = labels[by_class]
    rank = torch.arange(len(labels)) - starts[classes]
    place = (rank.double() + 0.5) / counts[classes]
    return by_class[place.argsort(stable=True)]


def validation_count(validation: int | float, total: int) -> int:
    """Return how many of `total` images validate.

    Args:
        validation: a number of images, or as a float a share in [0, 1).
        total: images there are.

    Returns:
        A number from 0 to `total - 1`.

    Raises:
        ValueError: nothing would be left to train on, or the number is negative.

    Example:
        >>> validation_count(0.1, 60000), validation_count(5000, 60000)
        (6000, 5000)
    """
    count = round(validation * total) if isinstance(validation, float) else validation
    if not 0 <= count < total:
        raise ValueError(
            f"validation is {validation}, which is {count} of {total} images. "
            f"Give a number of images below {total} or a share from 0.0 to less than 1.0."
        )
    return count

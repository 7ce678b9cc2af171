"""Images kept in memory as bytes and turned into normalised batches."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["ImageTensors", "as_it_is"]


class ImageTensors(Dataset[Any]):
    """A data set that a loader asks for whole batches, because collating single images is slower than a small network.

    A loader calls `__getitems__` with the indices of a batch, whatever its sampler is; `as_it_is` must be its
    `collate_fn`. The pixels stay bytes in memory, and a batch is `(pixels / peak - mean) / std` in float32.

    Args:
        images: ``(N, C, H, W)`` uint8.
        labels: ``(N,)`` int64.
        mean: mean of each channel, in shares of `peak`.
        std: standard deviation of each channel, in shares of `peak`.
        peak: the largest value of a pixel.
        augment: maps a batch of bytes ``(B, C, H, W)`` to another of the same shape; None leaves it as it is.

    Raises:
        TypeError: the images are not bytes.
        ValueError: the numbers of images, labels or channels do not agree.

    Example:
        >>> images = torch.full((3, 1, 2, 2), 255, dtype=torch.uint8)
        >>> data = ImageTensors(images, torch.arange(3), mean=(0.5,), std=(0.25,))
        >>> x, y = data.__getitems__([2, 0])
        >>> x.shape, x.unique().item(), y.tolist()
        (torch.Size([2, 1, 2, 2]), 2.0, [2, 0])
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        peak: float = 255.0,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if images.dtype != torch.uint8:
            raise TypeError(f"images have dtype {images.dtype}, expected torch.uint8.")
        if len(images) != len(labels):
            raise ValueError(f"got {len(images)} images and {len(labels)} labels, expected as many of each.")
        if not len(mean) == len(std) == images.shape[1]:
            raise ValueError(f"got {len(mean)} means and {len(std)} deviations for {images.shape[1]} channels.")
        self.images = images
        self.labels = labels
        self.augment = augment
        # One multiplication and one addition a pixel: x * scale + shift.
        deviation = torch.tensor(std).view(1, -1, 1, 1)
        self.scale = 1 / (peak * deviation)
        self.shift = -torch.tensor(mean).view(1, -1, 1, 1) / deviation

    def to(self, device: torch.device | str) -> Self:
        """Keep everything on a device, where batches are made from then on; a small data set fits beside the network."""
        for name in ("images", "labels", "scale", "shift"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the batch ``(B, C, H, W)`` float32 and its labels ``(B,)``."""
        index = torch.as_tensor(indices, device=self.images.device)
        pixels = self.images[index]
        if self.augment is not None:
            pixels = self.augment(pixels)
        return pixels.float().mul_(self.scale).add_(self.shift), self.labels[index]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.__getitems__([index])
        return x[0], y[0]


def as_it_is(batch: Any) -> Any:
    """Return what the data set gave: it is a batch already."""
    return batch

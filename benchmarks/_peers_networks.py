"""The networks and data sets of `peers.py`, and the uniform thin network of a stated size."""

import os
from collections.abc import Callable

import torch
from torch import nn

from ssl_prune import cost
from ssl_prune.data import CIFAR10, FashionMNIST, ImageData
from ssl_prune.models import VGG16BN, MobileNetV2, ResNet

Shape = tuple[int, int, int]
Build = Callable[[float, Shape], nn.Module]


def _resnet(*blocks: int) -> Build:
    def build(factor: float, shape: Shape) -> nn.Module:
        widths = [max(1, round(width * factor)) for width in (16, 32, 64)]
        return ResNet(blocks, widths, in_channels=shape[0], image_size=shape[1])

    return build


# Each takes a factor on all its widths and the shape of an image.
NETWORKS: dict[str, Build] = {
    "resnet8": _resnet(1, 1, 1),
    "resnet20": _resnet(3, 3, 3),
    "resnet56": _resnet(9, 9, 9),
    "vgg16bn": lambda factor, shape: VGG16BN(factor, in_channels=shape[0], image_size=shape[1]),
    "mobilenetv2": lambda factor, shape: MobileNetV2(factor, in_channels=shape[0], image_size=shape[1]),
}
DATA: dict[str, type[ImageData]] = {"cifar10": CIFAR10, "fashion": FashionMNIST}


def open_data(
    name: str, root: str | os.PathLike[str], images: int | None, validation: int = 5000, batch: int = 128
) -> ImageData:
    """The data set, of which so many training images are used; the validation images are held back in any case."""
    return DATA[name](root, batch_size=batch, validation=validation, subset=images)


def example(shape: Shape, device: torch.device | str = "cpu") -> torch.Tensor:
    return torch.zeros(1, *shape, device=device)


def macs(network: nn.Module, shape: Shape) -> int:
    return cost(network, example(shape, next(network.parameters()).device)).macs


def thin_factor(build: Build, shape: Shape, share: float, steps: int = 24) -> float:
    """The largest factor on all widths, to 2^-steps, with no more than this share of the multiply-accumulates.

    Raises:
        ValueError: even the thinnest network has more.
    """
    limit = share * macs(build(1.0, shape), shape)
    low, high = 0.0, 1.0
    if macs(build(low, shape), shape) > limit:
        raise ValueError(f"no uniform network has {share:.1%} of the multiply-accumulates or less")
    for _ in range(steps):  # rounding keeps the MACs from falling as the factor grows
        middle = (low + high) / 2
        if macs(build(middle, shape), shape) <= limit:
            low = middle
        else:
            high = middle
    return low

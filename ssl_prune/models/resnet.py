"""Residual networks for small images."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_prune.models._init import he_init

__all__ = ["BasicBlock", "ResNet", "ResNet18", "ResNet20", "ResNet32", "ResNet56"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to the shortcut.

    The shortcut is the identity, or a 1x1 convolution with batch normalisation where the shape changes.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: stride of the first convolution and of the projection.

    Example:
        >>> import torch
        >>> BasicBlock(4, 8, stride=2)(torch.zeros(1, 4, 8, 8)).shape
        torch.Size([1, 8, 4, 4])

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, figure 2 and option B.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, channels, H / stride, W / stride)``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = out + self.shortcut(x)
        return F.relu(out)


class ResNet(nn.Module):
    """A 3x3 stem, stages of basic blocks, global average pooling and one linear layer.

    Each stage after the first halves the height and the width. The stages are named `layer1`, `layer2`, and so on.

    Args:
        blocks: blocks of each stage.
        widths: channels of each stage; as many as `blocks`.
        in_channels: channels of the image.
        image_size: height and width of the image in pixels.
        num_classes: outputs of the last layer.

    Raises:
        ValueError: `blocks` and `widths` differ in length.

    Example:
        >>> import torch
        >>> ResNet(blocks=(1, 1), widths=(8, 16), image_size=8)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])

    Source: He et al., 2016, section 4.2.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        widths: Sequence[int],
        in_channels: int = 3,
        image_size: int = 32,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        if len(blocks) != len(widths) or not blocks:
            raise ValueError(f"ResNet: got {len(blocks)} stages in blocks and {len(widths)} in widths; give each both.")
        self.input_shape = (in_channels, image_size, image_size)
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = [f"layer{i + 1}" for i in range(len(blocks))]
        before = widths[0]
        for i, name in enumerate(self.stages):
            first = BasicBlock(before, widths[i], stride=1 if i == 0 else 2)
            rest = [BasicBlock(widths[i], widths[i]) for _ in range(blocks[i] - 1)]
            self.add_module(name, nn.Sequential(first, *rest))
            before = widths[i]
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        x = F.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


class ResNet20(ResNet):
    """ResNet-20 for CIFAR: 3 stages of 3 blocks, 272,474 parameters at the widths 16, 32 and 64.

    Args:
        widths: channels of the three stages.
        in_channels: channels of the image.
        image_size: height and width of the image in pixels.
        num_classes: outputs of the last layer.

    Example:
        >>> sum(p.numel() for p in ResNet20().parameters())
        272474

    Source: He et al., 2016, section 4.2, with projections as shortcuts.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        in_channels: int = 3,
        image_size: int = 32,
        num_classes: int = 10,
    ) -> None:
        super().__init__((3, 3, 3), widths, in_channels, image_size, num_classes)


class ResNet32(ResNet):
    """ResNet-32 for CIFAR: 3 stages of 5 blocks, 466,906 parameters at the widths 16, 32 and 64.

    Args:
        widths: channels of the three stages.
        in_channels: channels of the image.
        image_size: height and width of the image in pixels.
        num_classes: outputs of the last layer.

    Example:
        >>> sum(p.numel() for p in ResNet32().parameters())
        466906

    Source: He et al., 2016, section 4.2, with projections as shortcuts.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        in_channels: int = 3,
        image_size: int = 32,
        num_classes: int = 10,
    ) -> None:
        super().__init__((5, 5, 5), widths, in_channels, image_size, num_classes)


class ResNet56(ResNet):
    """ResNet-56 for CIFAR: 3 stages of 9 blocks, 855,770 parameters at the widths 16, 32 and 64.

    Args:
        widths: channels of the three stages.
        in_channels: channels of the image.
        image_size: height and width of the image in pixels.
        num_classes: outputs of the last layer.

    Example:
        >>> sum(p.numel() for p in ResNet56().parameters())
        855770

    Source: He et al., 2016, section 4.2, with projections as shortcuts.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        in_channels: int = 3,
        image_size: int = 32,
        num_classes: int = 10,
    ) -> None:
        super().__init__((9, 9, 9), widths, in_channels, image_size, num_classes)


class ResNet18(ResNet):
    """ResNet-18 with a stem for small images: 4 stages of 2 blocks, 11,173,962 parameters.

    Args:
        widths: channels of the four stages.
        in_channels: channels of the image.
        image_size: height and width of the image in pixels.
        num_classes: outputs of the last layer.

    Example:
        >>> sum(p.numel() for p in ResNet18().parameters())
        11173962

    Source: He et al., 2016, table 1; the 7x7 stem and its pooling are replaced by one 3x3 convolution.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512),
        in_channels: int = 3,
        image_size: int = 32,
        num_classes: int = 10,
    ) -> None:
        super().__init__((2, 2, 2, 2), widths, in_channels, image_size, num_classes)

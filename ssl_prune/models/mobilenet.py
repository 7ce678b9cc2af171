"""MobileNets for small images: the strides of the first layers are 1."""

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_prune.models._init import check_width, he_init

__all__ = ["InvertedResidual", "MobileNetV1", "MobileNetV2"]

# Channels and stride of each separable convolution.
V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
# Expansion, channels, blocks and stride of the first block. ImageNet has stride 2 in the second row and in the stem.
V2 = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def scaled(channels: int, width: float) -> int:
    """Return `channels * width` as a multiple of 8, at least 8 and never less than 90 % of it."""
    exact = channels * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * exact else rounded + 8


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a convolution that keeps the size at stride 1, and its batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class MobileNetV1(nn.Module):
    """A stem and thirteen depthwise separable convolutions: 3,217,226 parameters at width 1.

    Args:
        width: factor on the channels of every layer; they are rounded to multiples of 8.
        in_channels: channels of the image.
        image_size: height and width of the image in pixels.
        num_classes: outputs of the last layer.

    Raises:
        ValueError: the width is not above 0.

    Example:
        >>> import torch
        >>> MobileNetV1(width=0.25)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source: Howard et al., MobileNets, 2017, table 1; the stem has stride 1.
    """

    def __init__(self, width: float = 1.0, in_channels: int = 3, image_size: int = 32, num_classes: int = 10) -> None:
        super().__init__()
        self.input_shape = (in_channels, image_size, image_size)
        before = scaled(32, check_width(width))
        layers = [nn.Sequential(*conv_bn(in_channels, before, 3), nn.ReLU())]
        for filters, stride in V1:
            channels = scaled(filters, width)
            depthwise = conv_bn(before, before, 3, stride, groups=before)
            layers.append(nn.Sequential(*depthwise, nn.ReLU(), *conv_bn(before, channels, 1), nn.ReLU()))
            before = channels
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        logits: Tensor = self.fc(self.pool(self.features(x)).flatten(1))
        return logits


class InvertedResidual(nn.Module):
    """A 1x1 convolution that widens, a depthwise 3x3 one and a 1x1 one that narrows, without activation at the end.

    The input is added where the stride is 1 and the shape stays.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: stride of the depthwise convolution.
        expansion: factor from `in_channels` to the channels inside; 1 leaves the widening out.

    Source: Sandler et al., MobileNetV2, 2018, table 1.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        widen = [*conv_bn(in_channels, hidden, 1), nn.ReLU6()] if expansion != 1 else []
        depthwise = [*conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6()]
        self.conv = nn.Sequential(*widen, *depthwise, *conv_bn(hidden, channels, 1))
        self.adds = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, channels, H / stride, W / stride)``."""
        out: Tensor = self.conv(x)
        return x + out if self.adds else out


class MobileNetV2(nn.Module):
    """A stem, seventeen inverted residuals and a wide 1x1 convolution: 2,236,682 parameters at width 1.

    Args:
        width: factor on the channels of every layer; they are rounded to multiples of 8. The last convolution has
            1280 filters at least.
        in_channels: channels of the image.
        image_size: height and width of the image in pixels.
        num_classes: outputs of the last layer.

    Raises:
        ValueError: the width is not above 0.

    Example:
        >>> import torch
        >>> MobileNetV2(width=0.25)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source: Sandler et al., MobileNetV2, 2018, table 2; the stem and the second stage have stride 1.
    """

    def __init__(self, width: float = 1.0, in_channels: int = 3, image_size: int = 32, num_classes: int = 10) -> None:
        super().__init__()
        self.input_shape = (in_channels, image_size, image_size)
        before = scaled(32, check_width(width))
        self.stem = nn.Sequential(*conv_bn(in_channels, before, 3), nn.ReLU6())
        blocks = []
        for expansion, filters, count, stride in V2:
            for i in range(count):
                channels = scaled(filters, width)
                blocks.append(InvertedResidual(before, channels, stride if i == 0 else 1, expansion))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        last = scaled(1280, max(1.0, width))
        self.head = nn.Sequential(*conv_bn(before, last, 1), nn.ReLU6())
        self.fc = nn.Linear(last, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        x = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits

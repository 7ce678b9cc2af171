"""A network for the 8x8 digits that trains in seconds and still has a residual block."""

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_prune.models._init import he_init
from ssl_prune.models.resnet import BasicBlock

__all__ = ["DigitsNet"]


class DigitsNet(nn.Module):
    """Convolution, residual block, strided convolution, each with batch normalisation, and one linear layer.

    Args:
        widths: channels of the first convolution and of the residual block, and of the second convolution.
        in_channels: channels of the image.
        image_size: height and width of the image in pixels.
        num_classes: outputs of the last layer.

    Example:
        >>> import torch
        >>> DigitsNet()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, widths: tuple[int, int] = (16, 32), in_channels: int = 1, image_size: int = 8, num_classes: int = 10
    ) -> None:
        super().__init__()
        self.input_shape = (in_channels, image_size, image_size)
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.block = BasicBlock(widths[0], widths[0])
        self.conv2 = nn.Conv2d(widths[0], widths[1], 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(widths[1])
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(widths[1] * 4, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.block(x)
        x = F.relu(self.bn2(self.conv2(x)))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits

"""The small CIFAR-10 network of Caffe that the SSL paper prunes."""

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_prune.models._init import he_init

__all__ = ["ConvNet"]


class ConvNet(nn.Module):
    """Three 5x5 convolutions of 32, 32 and 64 filters and one linear layer: 89,578 parameters on CIFAR-10.

    The first pooling takes the maximum and stands before its ReLU, the other two take the mean after theirs. The
    poolings are 3x3 with stride 2 and round the size up; a window over the border averages only what lies inside.
    Caffe's local response normalisation after the first two poolings is left out.

    Args:
        in_channels: channels of the image.
        image_size: height and width of the image in pixels, at least 8.
        num_classes: outputs of the last layer.

    Raises:
        ValueError: the image is too small for three poolings.

    Example:
        >>> import torch
        >>> ConvNet()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source: Caffe, examples/cifar10/cifar10_full_train_test.prototxt; Wen et al., 2016, section 4.2.
    """

    def __init__(self, in_channels: int = 3, image_size: int = 32, num_classes: int = 10) -> None:
        super().__init__()
        if image_size < 8:
            raise ValueError(f"ConvNet: image_size is {image_size}, expected at least 8: three poolings halve it.")
        self.input_shape = (in_channels, image_size, image_size)
        side = image_size
        for _ in range(3):
            side //= 2  # a window of 3 with stride 2, rounded up, halves an even size and rounds an odd one down
        self.conv1 = nn.Conv2d(in_channels, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc = nn.Linear(64 * side * side, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        x = F.relu(F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True))
        x = F.avg_pool2d(F.relu(self.conv2(x)), 3, 2, ceil_mode=True)
        x = F.avg_pool2d(F.relu(self.conv3(x)), 3, 2, ceil_mode=True)
        logits: Tensor = self.fc(x.flatten(1))
        return logits

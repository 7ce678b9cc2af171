"""VGG-16 with batch normalisation for small images."""

from torch import Tensor, nn

from ssl_prune.models._init import check_width, he_init

__all__ = ["VGG16BN"]

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16BN(nn.Module):
    """Thirteen 3x3 convolutions, each with batch normalisation and ReLU, and one linear layer: 14,728,266 parameters.

    A 2x2 max-pooling follows each of the five stages.

    Args:
        width: factor on the number of filters of every layer.
        in_channels: channels of the image.
        image_size: height and width of the image in pixels, at least 32.
        num_classes: outputs of the last layer.

    Raises:
        ValueError: the image is smaller than 32 pixels, or the width is not above 0.

    Example:
        >>> import torch
        >>> VGG16BN(width=0.125)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source: Simonyan and Zisserman, Very Deep Convolutional Networks, 2015, table 1 (D); one linear layer as in
    Li et al., Pruning Filters for Efficient ConvNets, 2017.
    """

    def __init__(self, width: float = 1.0, in_channels: int = 3, image_size: int = 32, num_classes: int = 10) -> None:
        super().__init__()
        if image_size < 32:
            raise ValueError(f"VGG16BN: image_size is {image_size}, expected at least 32: five poolings halve it.")
        check_width(width)
        self.input_shape = (in_channels, image_size, image_size)
        layers: list[nn.Module] = []
        before = in_channels
        for stage in STAGES:
            for filters in stage:
                channels = max(1, round(filters * width))
                # A bias before batch normalisation has no effect, but VGG has it and its parameter count includes it.
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
                before = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        logits: Tensor = self.fc(self.pool(self.features(x)).flatten(1))
        return logits

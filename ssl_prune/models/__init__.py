"""The networks that the configs name, and the module that trains them.

Every network takes `in_channels`, `image_size` and `num_classes`, and states the shape of one image in `input_shape`.
"""

from typing import TYPE_CHECKING, Any

from ssl_prune.models.convnet import ConvNet
from ssl_prune.models.digits import DigitsNet
from ssl_prune.models.lenet import LeNet5
from ssl_prune.models.mlp import MLP, LeNet300100
from ssl_prune.models.mobilenet import MobileNetV1, MobileNetV2
from ssl_prune.models.resnet import ResNet, ResNet18, ResNet20, ResNet32, ResNet56
from ssl_prune.models.vgg import VGG16BN
from ssl_prune.models.vit import ViT

if TYPE_CHECKING:
    from ssl_prune.models.classifier import ImageClassifier

__all__ = [
    "MLP",
    "VGG16BN",
    "ConvNet",
    "DigitsNet",
    "ImageClassifier",
    "LeNet5",
    "LeNet300100",
    "MobileNetV1",
    "MobileNetV2",
    "ResNet",
    "ResNet18",
    "ResNet20",
    "ResNet32",
    "ResNet56",
    "ViT",
]


def __getattr__(name: str) -> Any:
    # Only ImageClassifier needs Lightning: a plain PyTorch user gets the networks without importing it.
    if name == "ImageClassifier":
        from ssl_prune.models.classifier import ImageClassifier

        return ImageClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

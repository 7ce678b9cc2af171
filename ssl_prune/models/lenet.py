"""LeNet-5 as Caffe has it, the network of most pruning papers on MNIST."""

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_prune.models._init import caffe_xavier_init, check_dropout

__all__ = ["LeNet5"]


class LeNet5(nn.Module):
    """Convolution 20, pooling, convolution 50, pooling, linear 500, ReLU, linear: 431,080 parameters on MNIST.

    There is no ReLU after the convolutions, only max-pooling: adding one changes which filters die.

    Args:
        in_channels: channels of the image.
        image_size: height and width of the image in pixels, at least 16.
        num_classes: outputs of the last layer.
        dropout: probabilities in front of the two linear layers; may be changed later. Caffe has none.

    Raises:
        ValueError: the image is too small for two convolutions and two poolings, or a probability is out of range.

    Example:
        >>> import torch
        >>> LeNet5()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])

    Source: Caffe, examples/mnist/lenet_train_test.prototxt.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        num_classes: int = 10,
        dropout: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        super().__init__()
        if image_size < 16:
            raise ValueError(
                f"LeNet5: image_size is {image_size}, expected at least 16. DigitsNet takes smaller images."
            )
        self.input_shape = (in_channels, image_size, image_size)
        self.dropout = check_dropout(dropout)
        side = ((image_size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * side * side, 500)
        self.fc2 = nn.Linear(500, num_classes)
        caffe_xavier_init(self)  # He's draw is twice as wide, for the ReLUs that are not here

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        x = F.relu(self.fc1(self._drop(x.flatten(1), 0)))
        logits: Tensor = self.fc2(self._drop(x, 1))
        return logits

    def _drop(self, x: Tensor, place: int) -> Tensor:
        # Without dropout nothing is drawn, so that the random state does not depend on the option.
        return F.dropout(x, self.dropout[place], self.training) if self.dropout[place] else x

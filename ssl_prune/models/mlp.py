"""Fully connected networks: the MLP of the SSL paper and LeNet-300-100."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_prune.models._init import check_dropout, he_init

__all__ = ["MLP", "LeNet300100"]


class MLP(nn.Module):
    """Linear layers with ReLU between them, on the flattened image.

    The layers are named `fc1`, `fc2`, and so on; the last one is the classifier.

    Args:
        widths: neurons of each hidden layer.
        in_channels: channels of the image.
        image_size: height and width of the image in pixels.
        num_classes: outputs of the last layer.
        dropout: probabilities on the image and on the hidden neurons; may be changed later.

    Raises:
        ValueError: a probability is out of range.

    Example:
        >>> import torch
        >>> MLP()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])

    Source: Wen et al., Learning Structured Sparsity in Deep Neural Networks, 2016, section 4.1 (784-500-300-10).
    """

    def __init__(
        self,
        widths: Sequence[int] = (500, 300),
        in_channels: int = 1,
        image_size: int = 28,
        num_classes: int = 10,
        dropout: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        super().__init__()
        self.input_shape = (in_channels, image_size, image_size)
        self.dropout = check_dropout(dropout)
        sizes = [in_channels * image_size**2, *widths, num_classes]
        self.depth = len(sizes) - 1
        for i in range(self.depth):
            self.add_module(f"fc{i + 1}", nn.Linear(sizes[i], sizes[i + 1]))
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        x = self._drop(x.flatten(1), 0)
        for i in range(1, self.depth):
            x = self._drop(F.relu(self.get_submodule(f"fc{i}")(x)), 1)
        logits: Tensor = self.get_submodule(f"fc{self.depth}")(x)
        return logits

    def _drop(self, x: Tensor, place: int) -> Tensor:
        # Without dropout nothing is drawn, so that the random state does not depend on the option.
        return F.dropout(x, self.dropout[place], self.training) if self.dropout[place] else x


class LeNet300100(MLP):
    """LeNet-300-100: 784-300-100-10, with 266,610 parameters.

    Args:
        in_channels: channels of the image.
        image_size: height and width of the image in pixels.
        num_classes: outputs of the last layer.
        dropout: probabilities on the image and on the hidden neurons; may be changed later.

    Example:
        >>> sum(p.numel() for p in LeNet300100().parameters())
        266610

    Source: LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998, section III.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        num_classes: int = 10,
        dropout: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        super().__init__((300, 100), in_channels, image_size, num_classes, dropout)

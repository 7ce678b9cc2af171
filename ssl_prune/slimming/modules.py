"""The module that a cut needs beyond layers: what a constant branch still adds."""

import torch
from torch import Tensor, nn

__all__ = ["Constant"]


class Constant(nn.Module):
    r"""What a dead branch still adds: one number per channel, whatever the input.

    Args:
        channels: number of channels C.
        dims: dimensions of the value it stands for; the result has shape (1, C, 1, ...) and broadcasts.

    Example:
        >>> Constant(3, 4)(torch.randn(2, 8, 5, 5)).shape
        torch.Size([1, 3, 1, 1])
    """

    value: Tensor

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(1, channels, *[1] * (dims - 2)))

    def forward(self, x: Tensor) -> Tensor:
        """The constant; `x` is not looked at."""
        return self.value.clone()  # the caller may write into what it gets

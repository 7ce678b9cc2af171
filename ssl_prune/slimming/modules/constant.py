"""The modules that a cut needs beyond layers: what a constant branch still adds, and its first step."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Blank", "Constant"]


class Constant(nn.Module):
    r"""What a dead branch still adds: one number per channel, whatever the input.

    Args:
        channels: number of channels C.
        dims: dimensions of the value it stands for; the result has shape (1, C, 1, ...) and broadcasts.
        whole: give the positions of the input too, for code that writes into the result; see `Blank`.
        last: channels are the last axis, as a Linear has them; the result has shape (1, ..., 1, C).

    Example:
        >>> Constant(3, 4)(torch.randn(2, 8, 5, 5)).shape
        torch.Size([1, 3, 1, 1])
        >>> Constant(3, 3, last=True)(torch.randn(2, 5, 8)).shape
        torch.Size([1, 1, 3])
    """

    value: Tensor

    def __init__(self, channels: int, dims: int, whole: bool = False, last: bool = False) -> None:
        super().__init__()
        self.whole = whole
        ones = [1] * (dims - 2)
        self.register_buffer("value", torch.zeros(*ones, 1, channels) if last else torch.zeros(1, channels, *ones))

    def forward(self, x: Tensor) -> Tensor:
        """The constant; of `x` only the shape counts, if at all."""
        value = self.value.expand(x.shape[0], -1, *x.shape[2:]) if self.whole else self.value
        return value.clone()  # the caller may write into what it gets


class Blank(nn.Module):
    r"""The first layer of a branch that is gone: zeros with one channel, of the size that the branch would come to.

    Along each axis every step makes ``floor((n + before + after - dilation (kernel - 1) - 1) / stride) + 1``.

    Args:
        steps: of each layer that changed the size, per axis (kernel, stride, before, after, dilation).

    Example:
        >>> Blank([[(3, 2, 1, 1, 1), (3, 2, 1, 1, 1)]])(torch.randn(2, 8, 9, 8)).shape
        torch.Size([2, 1, 5, 4])
    """

    def __init__(self, steps: Sequence[Sequence[Sequence[int]]]) -> None:
        super().__init__()
        self.steps = [[tuple(axis) for axis in step] for step in steps]

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, ...)`` to ``(N, 1, ...)``, always a new tensor."""
        size = list(x.shape[2:])
        for step in self.steps:
            size = [
                (n + before + after - dilation * (kernel - 1) - 1) // stride + 1
                for n, (kernel, stride, before, after, dilation) in zip(size, step, strict=True)
            ]
        return x.new_zeros(x.shape[0], 1, *size)

"""The few modules a cut needs beyond PyTorch's own: a constant branch, and layers over the columns that are left."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ColumnConv2d", "ColumnLinear", "Constant"]


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


class ColumnConv2d(nn.Module):
    r"""A convolution over chosen columns of its matrix: a gather, then one dense product.

    y = W · x[c, i·s + m·d, j·s + k·d] over the kept (c, m, k), which is what a convolution computes when all other
    columns are zero.

    Args:
        out_channels: rows O of the matrix.
        columns: kept columns, each (channel, row of the kernel, column of the kernel).
        kernel_size, stride, padding, dilation: of the convolution it replaces.
        bias: whether it has a bias.

    Example:
        >>> ColumnConv2d(4, [(0, 0, 0), (0, 2, 1)], (3, 3))(torch.randn(1, 1, 8, 8)).shape
        torch.Size([1, 4, 6, 6])

    Source: Wen et al., Learning Structured Sparsity in Deep Neural Networks, 2016, section 3.
    """

    columns: Tensor

    def __init__(
        self,
        out_channels: int,
        columns: Sequence[Sequence[int]],
        kernel_size: Sequence[int],
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = tuple(kernel_size), tuple(stride)
        self.padding, self.dilation = tuple(padding), tuple(dilation)
        self.out_channels, self.columns_kept = out_channels, len(columns)
        self.register_buffer("columns", torch.tensor([list(c) for c in columns], dtype=torch.long).view(-1, 3).T)
        self.weight = nn.Parameter(torch.zeros(out_channels, len(columns), 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W')."""
        if any(self.padding):
            x = F.pad(x, (self.padding[1], self.padding[1], self.padding[0], self.padding[0]))
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        windows = x.unfold(2, reach[0], self.stride[0]).unfold(3, reach[1], self.stride[1])
        windows = windows[..., :: self.dilation[0], :: self.dilation[1]].permute(0, 1, 4, 5, 2, 3)
        channel, row, column = self.columns
        return F.conv2d(windows[:, channel, row, column], self.weight, self.bias)

    def extra_repr(self) -> str:
        """Sizes, for `print(model)`."""
        return f"{self.columns_kept} columns, {self.out_channels}, kernel_size={self.kernel_size}"


class ColumnLinear(nn.Module):
    """A linear layer over chosen input features.

    Args:
        out_features: rows O.
        columns: kept input features.
        bias: whether it has a bias.

    Example:
        >>> ColumnLinear(3, [0, 5])(torch.randn(2, 8)).shape
        torch.Size([2, 3])
    """

    columns: Tensor

    def __init__(self, out_features: int, columns: Sequence[int], bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = len(columns), out_features
        self.register_buffer("columns", torch.tensor(list(columns), dtype=torch.long))
        self.weight = nn.Parameter(torch.zeros(out_features, len(columns)))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        return F.linear(x[..., self.columns], self.weight, self.bias)

    def extra_repr(self) -> str:
        """Sizes, for `print(model)`."""
        return f"{self.in_features} columns, {self.out_features}"

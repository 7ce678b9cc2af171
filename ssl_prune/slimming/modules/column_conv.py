"""Layers that read chosen columns of their matrix: one gather, then one dense product."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_prune.slimming.modules.cropped_conv import framed

__all__ = ["ColumnConv", "ColumnConv1d", "ColumnConv2d", "ColumnConv3d", "ColumnLinear"]


class ColumnConv(nn.Module):
    r"""A convolution over chosen columns of its matrix: one gather, then one dense product.

    y = W · x[c, i·s + m·d, j·s + k·d] over the kept (c, m, k), which is what a convolution computes when all other
    columns are zero. Where the columns lie in an input of some size is worked out once and kept for the next call.

    Use `ColumnConv1d`, `ColumnConv2d` or `ColumnConv3d`.

    Args:
        out_channels: rows O of the matrix.
        columns: kept columns, each (channel, position in the kernel along each axis).
        kernel_size, stride, dilation: of the convolution it replaces, a number for each axis.
        padding: for each axis a number, or (before, after) where they differ; negative numbers narrow.
        bias: whether it has a bias.
        in_channels: channels of the input, to refuse another one; None takes any.

    Raises:
        RuntimeError: at the call, an input of other channels or smaller than the kernel.

    Example:
        >>> ColumnConv2d(4, [(0, 0, 0), (0, 2, 1)], (3, 3))(torch.randn(1, 1, 8, 8)).shape
        torch.Size([1, 4, 6, 6])

    Source: Wen et al., Learning Structured Sparsity in Deep Neural Networks, 2016, section 3.
    """

    columns: Tensor
    dims: ClassVar[int]

    def __init__(
        self,
        out_channels: int,
        columns: Sequence[Sequence[int]],
        kernel_size: Sequence[int],
        stride: Sequence[int] | None = None,
        padding: Sequence[int | Sequence[int]] | None = None,
        dilation: Sequence[int] | None = None,
        bias: bool = True,
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        ones = (1,) * self.dims
        self.kernel_size, self.stride, self.dilation = (
            tuple(kernel_size),
            tuple(stride or ones),
            tuple(dilation or ones),
        )
        pairs = [(p, p) if isinstance(p, int) else p for p in padding or (0,) * self.dims]
        self.padding = tuple((low, high) for low, high in pairs)
        self.in_channels, self.out_channels, self.columns_kept = in_channels, out_channels, len(columns)
        places = torch.tensor([list(c) for c in columns], dtype=torch.long).view(-1, self.dims + 1)
        self.register_buffer("columns", places.T)
        self.weight = nn.Parameter(torch.zeros(out_channels, len(columns), *ones))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self._known: tuple[Any, Tensor, torch.Size] | None = None
        self._wider = any(n > 0 for pair in self.padding for n in pair)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, ...)`` to ``(N, O, ...)``, or the same without N."""
        if x.dim() == self.dims + 1:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        if self._wider:
            x = framed(x, [(max(low, 0), max(high, 0)) for low, high in self.padding])
        if torch.compiler.is_compiling():  # also torch.export: sizes are symbols, and a plain convolution reads better
            convolution = (F.conv1d, F.conv2d, F.conv3d)[self.dims - 1]
            convolved: Tensor = convolution(x.flatten(1)[:, self._places(x)], self.weight, self.bias)
            return convolved
        places, sizes = self._remembered(x)
        batch, columns = len(x), self.columns_kept
        # index_select copies a column at a time, several times faster than advanced indexing.
        gathered = x.flatten(1).index_select(1, places).view(batch, columns, math.prod(sizes))
        matrix = self.weight.view(1, -1, columns).expand(batch, -1, -1)
        if self.bias is None:
            product = torch.bmm(matrix, gathered)
        else:
            product = torch.baddbmm(self.bias.unsqueeze(1), matrix, gathered)
        return product.view(batch, matrix.shape[1], *sizes)

    def _places(self, x: Tensor) -> Tensor:
        """(K, H', W') where in a flattened sample each column finds its element of each window."""
        places: Any = self.columns[0] * math.prod(x.shape[2:])
        windows: Any = 0
        for axis in range(self.dims):
            kernel, stride, dilation = self.kernel_size[axis], self.stride[axis], self.dilation[axis]
            skip, after = (max(-n, 0) for n in self.padding[axis])
            step = math.prod(x.shape[3 + axis :])
            count = (x.shape[2 + axis] - skip - after - dilation * (kernel - 1) - 1) // stride + 1
            places = places + (self.columns[1 + axis] * dilation + skip) * step
            along = torch.arange(count, device=self.columns.device) * (stride * step)
            windows = windows + along.view(-1, *[1] * (self.dims - 1 - axis))
        found: Tensor = places.view(-1, *[1] * self.dims) + windows
        return found

    def _remembered(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        """`_places` as a vector, and the sizes of the output, for all inputs of this size."""
        key = (x.shape[1:], x.device)
        if self._known is not None and self._known[0] == key:
            return self._known[1:]
        if self.in_channels is not None and x.shape[1] != self.in_channels:
            raise RuntimeError(
                f"{type(self).__name__}: got an input of {x.shape[1]} channels, expected {self.in_channels}"
            )
        with torch.inference_mode(False):  # the next call may want gradients
            places = self._places(x)
            sizes = places.shape[1:]
            if not places.numel():
                raise RuntimeError(
                    f"{type(self).__name__}: got an input of {tuple(x.shape[2:])} positions, padding included; the "
                    f"kernel reaches over {[d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)]}"
                )
            # Half the memory traffic where the numbers allow it.
            places = places.flatten().to(torch.int32 if math.prod(x.shape[1:]) < 2**31 else torch.int64)
        if type(places) is Tensor:  # not the stand-ins of a tracer
            self._known = (key, places, sizes)
        return places, sizes

    def _load_from_state_dict(self, *args: Any) -> None:
        self._known = None  # other columns may come
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": None}

    def extra_repr(self) -> str:
        """Sizes, for `print(model)`."""
        return f"{self.columns_kept} columns, {self.out_channels}, kernel_size={self.kernel_size}"


class ColumnConv1d(ColumnConv):
    """`ColumnConv` over one axis."""

    dims = 1


class ColumnConv2d(ColumnConv):
    """`ColumnConv` over two axes."""

    dims = 2


class ColumnConv3d(ColumnConv):
    """`ColumnConv` over three axes."""

    dims = 3


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
        return F.linear(x.index_select(-1, self.columns), self.weight, self.bias)

    def extra_repr(self) -> str:
        """Sizes, for `print(model)`."""
        return f"{self.in_features} columns, {self.out_features}"

"""Convolutions whose input is padded or narrowed on each side by another number: what cropped kernels leave."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CroppedConv", "CroppedConv1d", "CroppedConv2d", "CroppedConv3d", "framed", "margins"]

Margins = tuple[tuple[int, int], ...]


def margins(layer: Any) -> Margins:
    """What a convolution adds before and after its input along each axis; negative where it leaves some out.

    Args:
        layer: an `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`, or a `CroppedConv`.

    Example:
        >>> margins(nn.Conv2d(1, 1, (4, 3), padding="same"))
        ((1, 2), (1, 1))
    """
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if layer.padding == "same":  # torch puts the odd one at the end
        return tuple((r // 2, r - r // 2) for r in reach)
    padding = [0] * len(reach) if layer.padding == "valid" else layer.padding
    frame = getattr(layer, "frame", [(0, 0)] * len(reach))
    return tuple((p + low, p + high) for p, (low, high) in zip(padding, frame, strict=True))


def framed(x: Tensor, frame: Sequence[Sequence[int]], mode: str = "constant") -> Tensor:
    """`x` with its last axes padded, or narrowed where a number is negative."""
    wider = [max(n, 0) for pair in reversed(frame) for n in pair]
    if any(wider):  # before narrowing: what is left of a small input may lie in the padding alone
        x = F.pad(x, wider, mode)
    for axis, (low, high) in enumerate(frame, -len(frame)):
        if low < 0 or high < 0:
            x = x.narrow(axis, max(-low, 0), x.shape[axis] - max(-low, 0) - max(-high, 0))
    return x


class CroppedConv(nn.Module):
    r"""A convolution that pads or narrows each side of its input by another number, and may read chosen channels only.

    What is left of a convolution when outer positions of its kernel are zero on one side only: with the first row of a
    kernel gone, padding p becomes p − dilation above and stays p below. The output keeps its size for every input.

    Use `CroppedConv1d`, `CroppedConv2d` or `CroppedConv3d`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: of the convolution that runs.
        frame: (before, after) for each axis, added to its input beside `padding`; negative numbers narrow.
        mode: what the frame is filled with, as in `torch.nn.functional.pad`.
        channels: input channels that are read, in order; `in_channels` of them. All if None.

    Example:
        >>> layer = CroppedConv2d(3, 4, (2, 3), padding=(0, 1), frame=[(0, 1), (0, 0)])
        >>> layer(torch.randn(1, 3, 8, 8)).shape
        torch.Size([1, 4, 8, 8])
    """

    weight: Tensor
    channels: Tensor | None
    dims: ClassVar[int]

    def __init__(
        self,
        *args: Any,
        frame: Sequence[Sequence[int]],
        mode: str = "constant",
        channels: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.frame, self.frame_mode = tuple((low, high) for low, high in frame), mode
        self.register_buffer("channels", None if channels is None else torch.tensor(list(channels)))

    def forward(self, input: Tensor) -> Tensor:
        """``(N, C, ...)`` to ``(N, O, ...)``, or the same without N."""
        if self.channels is not None:
            input = input.index_select(input.dim() - self.dims - 1, self.channels)
        convolved: Tensor = super().forward(framed(input, self.frame, self.frame_mode))
        return convolved

    def extra_repr(self) -> str:
        """Sizes, for `print(model)`."""
        return f"{super().extra_repr()}, frame={self.frame}"


class CroppedConv1d(CroppedConv, nn.Conv1d):
    """`CroppedConv` over one axis."""

    dims = 1


class CroppedConv2d(CroppedConv, nn.Conv2d):
    """`CroppedConv` over two axes."""

    dims = 2


class CroppedConv3d(CroppedConv, nn.Conv3d):
    """`CroppedConv` over three axes."""

    dims = 3

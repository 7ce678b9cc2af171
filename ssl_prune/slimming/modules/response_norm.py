"""What a global response normalisation becomes where channels are cut: its mean is still over all there were."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ResponseNorm", "response_norm"]


class ResponseNorm(nn.Module):
    r"""x + γ x n + β with n = g / (Σ g / width + ε), where g is the norm of each channel of x over its positions.

    Channels that are always zero add nothing to the sum; they are missing here and still count in the mean (global
    response normalisation; Woo et al., ConvNeXt V2, 2023).

    Args:
        scale: γ, of one size along all axes but that of the channels.
        shift: β, likewise.
        names: of the two in the module that this one stands for; they are kept.
        axes: of the positions.
        channel: axis of the channels.
        width: channels that the mean is over.
        eps: ε.

    Example:
        >>> one = nn.Parameter(torch.ones(3))
        >>> norm = ResponseNorm(one, one, ("gamma", "beta"), (1, 2), 3, 4, 1e-6)
        >>> norm(torch.ones(1, 2, 2, 3))[0, 0, 0]  # 1 + 4/3 + 1
        tensor([3.3333, 3.3333, 3.3333], grad_fn=<SelectBackward0>)
    """

    def __init__(
        self,
        scale: nn.Parameter,
        shift: nn.Parameter,
        names: tuple[str, str],
        axes: tuple[int, ...],
        channel: int,
        width: int,
        eps: float,
    ) -> None:
        super().__init__()
        self.names, self.axes, self.channel, self.width, self.eps = names, axes, channel, float(width), eps
        for name, parameter in zip(names, (scale, shift), strict=True):
            self.register_parameter(name, parameter)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised input, of its shape."""
        shape = [-1 if axis == self.channel else 1 for axis in range(x.dim())]
        scale, shift = (getattr(self, name).reshape(shape) for name in self.names)
        size = torch.linalg.vector_norm(x, 2, self.axes, keepdim=True)
        response = size / (size.sum(self.channel, keepdim=True) / self.width + self.eps)
        result: Tensor = scale * (x * response) + shift + x
        return result

    def extra_repr(self) -> str:
        """Sizes, for `print(model)`."""
        return f"{getattr(self, self.names[0]).numel()} of {self.width:.0f} channels, axis {self.channel}, eps={self.eps:g}"


def response_norm(module: Any, becomes: dict[str, Any]) -> ResponseNorm:
    """The form of a user's module whose parameters were cut, with these.

    Args:
        module: the module.
        becomes: {"kind": "ResponseNorm", "scale", "shift", "axes", "channel", "width", "eps"}, as plain data.
    """
    names = becomes["scale"], becomes["shift"]
    scale, shift = (getattr(module, name) for name in names)
    axes = tuple(becomes["axes"])
    return ResponseNorm(scale, shift, names, axes, becomes["channel"], becomes["width"], becomes["eps"][0])

"""What a cut writes into weights and biases: constants of removed channels, and the columns of groups that stay."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Fold", "gathered", "reordered"]


@dataclass(frozen=True)
class Fold:
    """Constants that removed input channels carry: `bias += W[:, channel].sum(kernel) · value`.

    In a convolution of several groups only the rows of the channel's group take it in. Under zero padding, where that is
    wrong at the border, another channel that carries a constant takes them in: `W[:, into] += W[:, channel] · value`.

    Args:
        channels: input channels of the dense layer.
        values: the constant each carries; with `into`, its ratio to the constant there.
        into: the input channel that takes them in, None for the bias.
    """

    channels: list[int]
    values: list[float]
    into: int | None = None

    def into_tensor(self, layer: Any) -> tuple[str, Tensor]:
        """Name and new value of the tensor of a dense layer that takes the constants in."""
        weight = layer.weight.detach()
        # In float64, and of these columns alone: the sum is exact, and the weight is never held twice.
        values = torch.tensor(self.values, dtype=torch.float64, device=weight.device)
        if self.into is not None:
            taken = torch.tensordot(self._columns(weight, self.channels).movedim(1, 0), values, ([0], [0]))
            new = weight.clone()
            new[:, self.into] = (weight[:, self.into].double() + taken).to(weight.dtype)
            return "weight", new
        shift = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
        width, height = weight.shape[1], len(weight) // getattr(layer, "groups", 1)
        for group in sorted({channel // width for channel in self.channels}):
            own = [i for i, channel in enumerate(self.channels) if channel // width == group]
            rows = slice(group * height, (group + 1) * height)
            columns = self._columns(weight[rows], [self.channels[i] - group * width for i in own])
            shift[rows] = (columns.flatten(2).sum(2) if columns.dim() > 2 else columns) @ values[own]
        bias = layer.bias.detach().double() if layer.bias is not None else torch.zeros_like(shift)
        return "bias", (bias + shift).to(weight.dtype)

    @staticmethod
    def _columns(weight: Tensor, channels: list[int]) -> Tensor:
        return weight.index_select(1, torch.tensor(channels, device=weight.device)).double()


def gathered(weight: Tensor, grouped: dict[str, Any]) -> Tensor:
    """The positions on the second axis of each group that stay, for all of its rows, which are cut like any layer's.

    Args:
        weight: of a convolution of several groups, (rows of all groups, positions of one, *kernel).
        grouped: {"groups", "columns"}, see `ModulePlan`.
    """
    columns = grouped["columns"]
    width = next(len(c) for c in columns if c)
    # Rows of a group that goes are cut next: any columns do for them.
    index = torch.tensor([c or [0] * width for c in columns], device=weight.device)
    index = index.repeat_interleave(weight.shape[0] // grouped["groups"], 0)
    index = index.view(*index.shape, *[1] * (weight.dim() - 2)).expand(*index.shape, *weight.shape[2:])
    return weight.detach().gather(1, index)


def reordered(tensor: Tensor, order: dict[str, Any]) -> Tensor:
    """Each slice along the first axis with its positions along another one in an order of its own.

    Args:
        tensor: of two axes or more.
        order: {"axis", "rows"}, see `ModulePlan`.
    """
    axis, rows = order["axis"], torch.tensor(order["rows"], device=tensor.device)
    index = rows.view([size if a in (0, axis) else 1 for a, size in enumerate(tensor.shape)]).expand(tensor.shape)
    return tensor.detach().gather(axis, index)

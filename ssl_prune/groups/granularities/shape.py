"""Granularity "shape": one position of the filters, over all filters of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ssl_prune.groups.collect import Collector, Layers, parameter, prefixed
from ssl_prune.groups.granularities.channel import is_depthwise
from ssl_prune.groups.partition import Partition
from ssl_prune.groups.select import is_transposed

if TYPE_CHECKING:
    from ssl_prune.graph import ChannelGraph


@dataclass(frozen=True)
class Shape:
    """``W[:, c, m, k]``: a column of the layer's matrix; of a Linear an input column. Depthwise layers are left out.

    Columns on the network's input count too: they go by gathering inputs.

    Example:
        >>> from ssl_prune.groups import partition
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> partition(net, "shape")  # 1 * 9 and 4 * 9 columns
        Partition(45 shape groups in 2 parameters)

    Source: Wen et al. (2016), section 3.1, shape-wise.
    """

    needs_graph: ClassVar[bool] = False

    def build(self, model: nn.Module, graph: ChannelGraph | None, select: Layers) -> Partition:
        """One group a column."""
        groups = Collector("shape")
        for layer, module in select.items():
            if not is_depthwise(module):
                weight = parameter(layer, module)
                groups.add(layer, {prefixed(layer, "weight"): (weight, _index(module, weight), "column")})
        return groups.finish("all the selected layers are depthwise")


def _index(module: nn.Module, weight: Tensor) -> Tensor:
    if is_transposed(module):  # (in, out / groups, ...): groups split the inputs, so each input has its own columns
        return torch.arange(weight.shape[0] * prod(weight.shape[2:])).reshape(weight.shape[0], 1, *weight.shape[2:])
    columns = torch.arange(prod(weight.shape[1:])).reshape(1, *weight.shape[1:])
    blocks = int(getattr(module, "groups", 1))
    if blocks == 1:
        return columns
    block = torch.arange(blocks).repeat_interleave(weight.shape[0] // blocks)
    return columns + block.reshape(-1, *[1] * (weight.ndim - 1)) * prod(weight.shape[1:])

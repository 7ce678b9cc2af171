"""Granularity "filter": the weights that make one output channel of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ssl_prune.groups.axes import find_axis, removable, require
from ssl_prune.groups.collect import Collector, Layers, along, parameter, prefixed
from ssl_prune.groups.kept_layers import why_kept
from ssl_prune.groups.partition import Partition
from ssl_prune.groups.select import is_transposed

if TYPE_CHECKING:
    from ssl_prune.graph import ChannelGraph, ParameterAxis


@dataclass(frozen=True)
class Filter:
    """``W[n]`` over the output axis of each layer (a row of a Linear); outputs of the network are left out.

    Example:
        >>> from ssl_prune.groups import partition
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> partition(net, "filter", example_inputs=torch.zeros(1, 1, 8, 8))  # the last layer writes the output
        Partition(4 filter groups in 1 parameters)

    Source: Wen et al. (2016), section 3.1, filter-wise.
    """

    needs_graph: ClassVar[bool] = True

    def build(self, model: nn.Module, graph: ChannelGraph | None, select: Layers) -> Partition:
        """One group a removable output channel of each layer."""
        graph = require(graph, "filter")
        groups = Collector("filter")
        for layer, module in select.items():
            weight, axis = parameter(layer, module), find_axis(graph, layer, "weight", "writer")
            if axis is not None:
                groups.add(layer, {prefixed(layer, "weight"): (weight, _index(module, weight, axis), "row")})
        return groups.finish("no output of the selected layers can be removed", partial(why_kept, select, graph))


def _index(module: nn.Module, weight: Tensor, axis: ParameterAxis) -> Tensor:
    positions = removable(axis)
    blocks = int(getattr(module, "groups", 1))
    if not is_transposed(module) or blocks == 1:
        return along(weight, axis.axis, positions)
    # (in, out / groups, ...): input i belongs to convolution group i // (in / groups), which has outputs of its own.
    width = weight.shape[1]
    block = torch.arange(weight.shape[0]).div(weight.shape[0] // blocks, rounding_mode="floor")
    output = block[:, None] * width + torch.arange(width)
    if positions.numel() == width:
        output = torch.where(positions < 0, -1, output)
    return output.reshape([*output.shape, *[1] * (weight.ndim - 2)])

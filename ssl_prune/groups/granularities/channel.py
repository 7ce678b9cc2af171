"""Granularity "channel": the weights that read one input channel of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from ssl_prune.groups.axes import find_axis, require
from ssl_prune.groups.collect import Collector, Layers, along, parameter, prefixed
from ssl_prune.groups.partition import Partition

if TYPE_CHECKING:
    from ssl_prune.graph import ChannelGraph


@dataclass(frozen=True)
class Channel:
    """``W[:, c]`` over the input axis; after a flatten all the columns that one channel feeds.

    Channels of the network's input and depthwise layers are left out: the former cannot be removed, the latter are
    their own filters.

    Example:
        >>> import torch
        >>> from ssl_prune.groups import partition
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> partition(net, "channel", example_inputs=torch.zeros(1, 1, 8, 8))
        Partition(4 channel groups in 1 parameters)

    Source: Wen et al. (2016), section 3.1, channel-wise.
    """

    needs_graph: ClassVar[bool] = True

    def build(self, model: nn.Module, graph: ChannelGraph | None, select: Layers) -> Partition:
        """One group a removable unit that each layer reads."""
        graph = require(graph, "channel")
        groups = Collector("channel")
        for layer, module in select.items():
            weight, axis = parameter(layer, module), find_axis(graph, layer, "weight", "reader")
            if axis is not None and not is_depthwise(module):
                index = along(weight, axis.axis, axis.units.cpu())
                groups.add(layer, {prefixed(layer, "weight"): (weight, index, "column")})
        return groups.finish("the selected layers read only the network's input, or are depthwise")


def is_depthwise(module: nn.Module) -> bool:
    """Whether each input channel has filters of its own."""
    groups = getattr(module, "groups", 1)
    return bool(groups > 1 and groups == getattr(module, "in_channels", None))

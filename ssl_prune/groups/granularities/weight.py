"""Granularity "weight": every weight entry is a group of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from ssl_prune.groups.collect import Layers, parameter, prefixed
from ssl_prune.groups.member import Member
from ssl_prune.groups.partition import Partition

if TYPE_CHECKING:
    from ssl_prune.graph import ChannelGraph


@dataclass(frozen=True)
class Weight:
    """Single entries of convolution and linear weights; no biases, no normalisation vectors.

    Example:
        >>> from ssl_prune.groups import partition
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> partition(net, "weight").num_groups  # 36 and 72 weights
        108
    """

    needs_graph: ClassVar[bool] = False

    def build(self, model: nn.Module, graph: ChannelGraph | None, select: Layers) -> Partition:
        """One group an entry, without an index tensor."""
        weights: dict[int, tuple[str, nn.Parameter]] = {}
        for layer, module in select.items():
            weight = parameter(layer, module)
            weights.setdefault(id(weight), (layer, weight))
        members = [Member(prefixed(layer, "weight"), weight, None, role="row") for layer, weight in weights.values()]
        return Partition(members, [layer for layer, _ in weights.values()], torch.arange(len(members)), "weight")

"""Granularity "depth": a whole layer that a shortcut bypasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from ssl_prune.groups.axes import require
from ssl_prune.groups.collect import Collector, Layers, Tensors, along, parameter, prefixed
from ssl_prune.groups.member import written_by
from ssl_prune.groups.partition import Partition

if TYPE_CHECKING:
    from ssl_prune.graph import ChannelGraph

_ROLES = {"weight": "scale", "bias": "shift"}  # of a normalisation's own parameters


@dataclass(frozen=True)
class Depth:
    """A bypassed layer's weight and bias with the scale and shift of the normalisation that reads it.

    Only with all of them at zero is the layer's output zero, so that the shortcut alone remains.

    Example:
        >>> from ssl_prune.groups import partition
        >>> from ssl_prune.models import DigitsNet
        >>> groups = partition(DigitsNet(), "depth", example_inputs=torch.zeros(1, 1, 8, 8))
        >>> [groups.describe(g) for g in range(groups.num_groups)]
        ['block.conv1 depth', 'block.conv2 depth']

    Source: Wen et al. (2016), section 3.1, depth-wise.
    """

    needs_graph: ClassVar[bool] = True

    def build(self, model: nn.Module, graph: ChannelGraph | None, select: Layers) -> Partition:
        """One group a bypassed layer."""
        graph = require(graph, "depth")
        groups = Collector("depth")
        modules = dict(model.named_modules(remove_duplicate=False))
        for layer in (name for name in graph.bypassed if name in select):
            parameter(layer, select[layer])
            tensors: Tensors = {}
            for name in (layer, *graph.followers.get(layer, ())):
                for own, param in modules[name].named_parameters(recurse=False):
                    role = written_by("writer" if name == layer else _ROLES.get(own, "other"), param)
                    tensors[prefixed(name, own)] = (param, along(param, 0, torch.zeros(1, dtype=torch.long)), role)
            groups.add(layer, tensors)
        return groups.finish("no shortcut bypasses any of the selected layers")

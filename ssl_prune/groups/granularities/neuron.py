"""Granularity "neuron": one neuron between linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from ssl_prune.groups.axes import find_axis, removable, require
from ssl_prune.groups.collect import Collector, Layers, Tensors, along, parameter, prefixed
from ssl_prune.groups.partition import Partition

if TYPE_CHECKING:
    from ssl_prune.graph import ChannelGraph


@dataclass(frozen=True)
class Neuron:
    """All that leaves a neuron (`side` "out": a column of the Linear that reads it) or enters it ("in": row and bias).

    Columns on the network's input features count; rows of the network's outputs do not.

    Args:
        side: "out" or "in".

    Raises:
        ValueError: `side` is neither.

    Example:
        >>> from ssl_prune.groups import partition
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> partition(net, Neuron(side="out")).num_groups, partition(net, Neuron(side="in"), example_inputs=torch.zeros(1, 4)).num_groups
        (7, 3)

    Source: Wen et al. (2016), section 4.1, the multilayer perceptron.
    """

    side: Literal["out", "in"] = "out"

    def __post_init__(self) -> None:
        if self.side not in ("out", "in"):
            raise ValueError(f'side must be "out" or "in", got {self.side!r}')

    @property
    def needs_graph(self) -> bool:
        """Only the rows: which of them are outputs of the network."""
        return self.side == "in"

    def build(self, model: nn.Module, graph: ChannelGraph | None, select: Layers) -> Partition:
        """One group a column, or a removable row with its bias."""
        groups = Collector("neuron")
        for layer, module in select.items():
            if not isinstance(module, nn.Linear):
                continue
            weight, bias = parameter(layer, module), module._parameters.get("bias")
            if self.side == "out":
                positions = torch.arange(weight.shape[1])
                groups.add(layer, {prefixed(layer, "weight"): (weight, along(weight, 1, positions), "column")})
                continue
            axis = find_axis(require(graph, "neuron"), layer, "weight", "writer")
            if axis is None:
                continue
            positions = removable(axis)
            tensors: Tensors = {prefixed(layer, "weight"): (weight, along(weight, 0, positions), "row")}
            if bias is not None:
                tensors[prefixed(layer, "bias")] = (bias, positions, "bias")
            groups.add(layer, tensors)
        return groups.finish("none of the selected layers is a Linear with a neuron that can be removed")

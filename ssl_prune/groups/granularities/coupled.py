"""Granularity "coupled": everything that writes one unit of the network."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ssl_prune.groups.axes import require
from ssl_prune.groups.collect import Layers, along
from ssl_prune.groups.kept_layers import why_kept
from ssl_prune.groups.member import Member, written_by
from ssl_prune.groups.partition import Partition
from ssl_prune.groups.select import prunable_layers

if TYPE_CHECKING:
    from ssl_prune.graph import ChannelGraph, ParameterAxis


@dataclass(frozen=True)
class Coupled:
    """Rows and biases of every layer that writes a unit, and the scale and shift of its normalisations.

    Adds, concatenations and depthwise layers tie them: this is what one removable channel is. A group is whole or not
    there at all, so a unit is left out if any of the layers that write it is not selected.

    Example:
        >>> from ssl_prune.groups import partition
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> partition(net, "coupled", example_inputs=torch.zeros(1, 1, 8, 8)).sizes  # nine weights and a bias
        tensor([10., 10., 10., 10.])
    """

    needs_graph: ClassVar[bool] = True

    def build(self, model: nn.Module, graph: ChannelGraph | None, select: Layers) -> Partition:
        """One group a unit that only selected layers write."""
        graph = require(graph, "coupled")
        axes = _writing_axes(model, graph)
        keep = torch.zeros(graph.num_units, dtype=torch.bool)
        for _, axis in axes:
            keep[axis.units[axis.units >= 0].cpu()] = True
        layers = prunable_layers(model)
        touched = torch.zeros_like(keep)
        for _, axis in axes:
            owner, units = axis.name.rpartition(".")[0], axis.units[axis.units >= 0].cpu()
            touched[units] |= owner in select
            if owner in layers and owner not in select:
                keep[units] = False
        for plane, _ in graph.shared:  # a vector that serves many slices follows them
            keep[plane[plane >= 0].cpu()] = False
        if len(select) < len(layers):  # units that only other kinds of module write cannot be named by a selection
            keep &= touched
        first = _one_axis_each(axes, keep)
        if not keep.any():
            raise ValueError(
                f"no coupled groups: no unit is written by the selected layers alone{why_kept(select, graph)}"
            )
        number = torch.cat([torch.where(keep, keep.cumsum(0) - 1, -1), torch.tensor([-1])])
        members = [
            Member(
                axis.name, param, along(param, axis.axis, number[axis.units.cpu()]), role=written_by(axis.role, param)
            )
            for param, axis in first.values()
            if bool((number[axis.units.cpu()] >= 0).any())
        ]
        names = list(dict.fromkeys(graph.unit_layer[u] for u in keep.nonzero().flatten().tolist()))
        place = {name: i for i, name in enumerate(names)}
        layer = torch.tensor([place[graph.unit_layer[u]] for u in keep.nonzero().flatten().tolist()])
        return Partition(members, names, layer, "unit")


def _writing_axes(model: nn.Module, graph: ChannelGraph) -> list[tuple[nn.Parameter, ParameterAxis]]:
    params = dict(model.named_parameters(remove_duplicate=False))
    missing = [a.name for a in graph.axes if a.name not in params]
    if missing:
        raise ValueError(f"the graph names {missing[0]}, which {type(model).__name__} does not have: trace it again")
    return [(params[a.name], a) for a in graph.axes if a.role not in ("reader", "grouped")]


def _one_axis_each(
    axes: list[tuple[nn.Parameter, ParameterAxis]], keep: Tensor
) -> dict[int, tuple[nn.Parameter, ParameterAxis]]:
    """One axis a parameter; clears `keep` for units whose groups would cross others in a parameter's entries."""
    found: dict[int, list[tuple[nn.Parameter, ParameterAxis]]] = defaultdict(list)
    for param, axis in axes:
        found[id(param)].append((param, axis))
    for (_, first), *others in found.values():
        for _, other in others:
            if other.axis != first.axis or not torch.equal(other.units, first.units):
                keep[other.units[other.units >= 0].cpu()] = False
    return {key: pairs[0] for key, pairs in found.items()}

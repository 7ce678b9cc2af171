"""Looking up a layer's removable positions in the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssl_prune.groups.collect import prefixed

if TYPE_CHECKING:
    from ssl_prune.graph import ChannelGraph, ParameterAxis


def require(graph: ChannelGraph | None, granularity: str) -> ChannelGraph:
    """The graph, or an error that says how to give it.

    Raises:
        ValueError: there is none.
    """
    if graph is None:
        raise ValueError(f'granularity "{granularity}" needs a graph: pass graph=trace(model, example_inputs)')
    return graph


def find_axis(graph: ChannelGraph, layer: str, name: str, *roles: str) -> ParameterAxis | None:
    """The axis of ``layer.name`` with one of the roles, None if the graph has none."""
    wanted = prefixed(layer, name)
    return next((a for a in graph.axes if a.name == wanted and a.role in roles), None)


def removable(axis: ParameterAxis) -> Tensor:
    """Positions along the axis, -1 where the unit cannot be removed."""
    units = axis.units.cpu()
    return torch.where(units < 0, -1, torch.arange(units.numel()))

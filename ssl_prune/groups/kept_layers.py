"""Layers of which no channel can ever be removed, whatever training makes of them, and why."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from ssl_prune.groups.collect import Layers, prefixed

if TYPE_CHECKING:
    from ssl_prune.graph import ChannelGraph

__all__ = ["kept_layers", "why_kept"]


def kept_layers(layers: Layers, graph: ChannelGraph) -> dict[str, str]:
    """Each of these layers whose outputs no cut can narrow, with the reason of most of them.

    Args:
        layers: name -> module, of the network that the graph is of.
        graph: the channel graph.

    Example:
        >>> from torch import nn
        >>> from ssl_prune.graph import trace
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> kept_layers({"0": net[0], "2": net[2]}, trace(net, torch.zeros(1, 4)))
        {'2': 'it reaches an output of the network'}
    """
    narrowed, found = {(a.name, a.axis) for a in graph.axes}, {}
    for name, layer in layers.items():
        weight = dict(layer.named_parameters()).get("weight")
        axis = 1 if getattr(layer, "transposed", False) else 0
        if weight is None or (prefixed(name, "weight"), axis) in narrowed:
            continue
        said = ["the network was traced without its code"]
        if graph.causes is not None:
            said = graph.causes.of(prefixed(name, "weight"), axis, torch.arange(weight.shape[axis]))
        found[name] = Counter(said).most_common(1)[0][0] if said else "it has no outputs"
    return found


def why_kept(layers: Layers, graph: ChannelGraph) -> str:
    """The end of a message: "; name: reason" of each of them.

    Args:
        layers: name -> module, of the network that the graph is of.
        graph: the channel graph.
    """
    return "".join(f"; {name}: {reason}" for name, reason in kept_layers(layers, graph).items())

"""What a proof would keep, found before a budget plans: other channels go in its place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_prune.budget.indivisible import IndivisibleGroups
from ssl_prune.budget.measure import at_zero
from ssl_prune.errors import SlimError
from ssl_prune.graph import ChannelGraph
from ssl_prune.slimming.compiler import compiled
from ssl_prune.slimming.settings import Settings
from ssl_prune.slimming.subject import Subject
from ssl_prune.utils.inputs import Inputs

__all__ = ["unprovable"]

CUTS = 3  # that are tried: code that goes wrong hides what follows it


def unprovable(graph: ChannelGraph, network: nn.Module, inputs: Inputs, parts: IndivisibleGroups) -> Tensor:
    """``(U,)`` units that a cut keeps although they are zero, as code that states its widths makes it.

    Every second group of each layer is set to zero, cut and proven; the network is left as it was. Of a layer of which
    nothing goes that was tried the rest stays too.

    Args:
        graph: the channel graph.
        network: the network.
        inputs: the example.
        parts: its groups.
    """
    kept = torch.zeros(graph.num_units, dtype=torch.bool)
    place = next(network.parameters()).device
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        for _ in range(CUTS):
            dead = _every_second(parts, parts.fixed | parts.of(kept))
            try:
                with at_zero(parts.groups, dead):
                    found = compiled(Subject(graph, network, inputs), Settings()).dead
            except SlimError:  # the network as it is now proves nothing
                break
            stays = parts.dead_units(dead) & ~found if found is not None else torch.zeros_like(kept)
            if not bool(stays.any()):
                break
            kept |= stays | parts.dead_units(_alike(parts, dead, parts.of(stays)))
    return kept


def _alike(parts: IndivisibleGroups, tried: Tensor, stays: Tensor) -> Tensor:
    """``(A,)`` all groups of the layers in which every group stays that was tried."""
    layer = parts.groups.layer.cpu()
    count = torch.bincount(layer[tried], minlength=len(parts.groups.layers))
    none_went = (count > 0) & (torch.bincount(layer[tried & stays], minlength=len(count)) == count)
    return none_went[layer]


def _every_second(parts: IndivisibleGroups, stays: Tensor) -> Tensor:
    """``(A,)`` every second group of each layer, of those that may go."""
    dead, layer = torch.zeros_like(stays), parts.groups.layer.cpu()
    for number in layer.unique().tolist():
        dead[((layer == number) & ~stays).nonzero().flatten()[1::2]] = True
    return dead

"""The time of a network as it would be without some groups; it is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import torch
from torch import Tensor, nn

from ssl_prune.graph import ChannelGraph
from ssl_prune.groups import Partition
from ssl_prune.latency import compare_latency
from ssl_prune.sizes.remaining import cut_unproven
from ssl_prune.utils.copies import copied
from ssl_prune.utils.inputs import Inputs, uncompiled

__all__ = ["at_zero", "latency_left"]

ROUNDS, MOST = 25, 400  # passes of each network, of which the median counts: the more the faster it is
SECONDS = 0.2  # that those of the dense network take where they are more than the least
# Where weights lie in memory counts as long as they fit into the caches: ten measurements of one slim MLP said 24 to 29 %. So these
# passes are divided among as many copies, each in a place of its own.
PLACES = 5


@contextmanager
def at_zero(groups: Partition, dead: Tensor) -> Iterator[None]:
    """With the dead groups ``(G,)`` at zero, and every value as it was afterwards.

    Args:
        groups: the partition.
        dead: ``(G,)`` bool.

    Example:
        >>> from ssl_prune.groups import partition
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.fill_(1.0)
        >>> with at_zero(partition(layer, "neuron"), torch.tensor([True, False])):
        ...     print(layer.weight.data)
        tensor([[0., 1.]])
        >>> layer.weight.data
        tensor([[1., 1.]])
    """
    before = [member.param.detach().clone() for member in groups.members]
    groups.scale_((~dead).to(groups.norms()))
    try:
        yield
    finally:
        with torch.no_grad():
            for member, values in zip(groups.members, before, strict=True):
                member.param.copy_(values)


def latency_left(
    graph: ChannelGraph, network: nn.Module, reference: nn.Module, inputs: Inputs, seconds: float
) -> float:
    """The share of the time that a network takes as it would be cut now.

    Args:
        graph: of the network.
        network: with some channels at zero.
        reference: the dense network, of which no channel is at zero.
        inputs: the batch that is timed.
        seconds: that a forward pass of the dense network takes, about.

    Returns:
        The median over copies of both networks, a share.
    """
    cut = cut_unproven(graph, network, inputs)
    rounds = min(MOST, max(ROUNDS, round(SECONDS / seconds)))
    places = max(1, min(PLACES, rounds // ROUNDS))
    pairs = [(reference, cut), *((copied(reference), copied(cut)) for _ in range(places - 1))]
    shares = []
    with uncompiled():  # what is cut is not compiled either
        for dense, slim in pairs:
            before, after = compare_latency(dense, slim, inputs, rounds=rounds // places)
            shares.append(after / before)
    return median(shares)

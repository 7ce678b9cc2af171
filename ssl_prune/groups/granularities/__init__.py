"""Granularities: which entries live or die together. One file a granularity; a new one joins by a line in `GRANULARITIES`."""

from collections.abc import Mapping

from ssl_prune.groups.collect import Granularity
from ssl_prune.groups.granularities.channel import Channel
from ssl_prune.groups.granularities.coupled import Coupled
from ssl_prune.groups.granularities.depth import Depth
from ssl_prune.groups.granularities.filter import Filter
from ssl_prune.groups.granularities.neuron import Neuron
from ssl_prune.groups.granularities.shape import Shape
from ssl_prune.groups.granularities.weight import Weight

__all__ = ["GRANULARITIES", "Channel", "Coupled", "Depth", "Filter", "Neuron", "Shape", "Weight"]

GRANULARITIES: Mapping[str, Granularity] = {
    "weight": Weight(),
    "filter": Filter(),
    "channel": Channel(),
    "shape": Shape(),
    "depth": Depth(),
    "neuron": Neuron(),
    "coupled": Coupled(),
}

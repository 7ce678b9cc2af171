"""Granularities: which entries live or die together, as partitions that are vectors."""

from ssl_prune.groups.collect import Granularity
from ssl_prune.groups.granularities.channel import Channel
from ssl_prune.groups.granularities.coupled import Coupled
from ssl_prune.groups.granularities.depth import Depth
from ssl_prune.groups.granularities.filter import Filter
from ssl_prune.groups.granularities.neuron import Neuron
from ssl_prune.groups.granularities.shape import Shape
from ssl_prune.groups.granularities.weight import Weight
from ssl_prune.groups.member import Member, Role
from ssl_prune.groups.partition import Partition
from ssl_prune.groups.registry import GRANULARITIES, partition
from ssl_prune.groups.select import Patterns, select_layers

__all__ = [
    "GRANULARITIES",
    "Channel",
    "Coupled",
    "Depth",
    "Filter",
    "Granularity",
    "Member",
    "Neuron",
    "Partition",
    "Patterns",
    "Role",
    "Shape",
    "Weight",
    "partition",
    "select_layers",
]

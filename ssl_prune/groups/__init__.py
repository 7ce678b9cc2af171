"""Granularities: which entries live or die together, as partitions that are vectors."""

from ssl_prune.groups.build import GRANULARITIES, partition
from ssl_prune.groups.channel import Channel
from ssl_prune.groups.collect import Granularity
from ssl_prune.groups.coupled import Coupled
from ssl_prune.groups.depth import Depth
from ssl_prune.groups.entry import Entry
from ssl_prune.groups.filter import Filter
from ssl_prune.groups.member import Member
from ssl_prune.groups.neuron import Neuron
from ssl_prune.groups.partition import Partition
from ssl_prune.groups.select import Patterns, select_layers
from ssl_prune.groups.shape import Shape

__all__ = [
    "GRANULARITIES",
    "Channel",
    "Coupled",
    "Depth",
    "Entry",
    "Filter",
    "Granularity",
    "Member",
    "Neuron",
    "Partition",
    "Patterns",
    "Shape",
    "partition",
    "select_layers",
]

"""Granularities: which entries live or die together, as partitions that are vectors."""

from ssl_prune.groups.collect import Granularity
from ssl_prune.groups.granularities import GRANULARITIES, Channel, Coupled, Depth, Filter, Neuron, Shape, Weight
from ssl_prune.groups.member import Member, Role
from ssl_prune.groups.partition import Partition
from ssl_prune.groups.registry import partition
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

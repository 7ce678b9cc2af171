"""Which entries of a network are tied: labels that travel with the network's own data movement."""

from ssl_prune.graph.channel_graph import ChannelGraph, ParameterAxis, Reader
from ssl_prune.graph.tracing import by_export, trace

__all__ = ["ChannelGraph", "ParameterAxis", "Reader", "by_export", "trace"]

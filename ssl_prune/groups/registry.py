"""The one function that makes a partition of a model."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssl_prune.graph import ChannelGraph, trace
from ssl_prune.groups.collect import Granularity
from ssl_prune.groups.granularities import GRANULARITIES
from ssl_prune.groups.partition import Partition
from ssl_prune.groups.select import Patterns, select_layers
from ssl_prune.groups.shards import is_sharded, on_shards
from ssl_prune.utils.nearest import nearest


def granularity_of(given: str | Granularity) -> Granularity:
    """The granularity of a name, or the object itself.

    Raises:
        TypeError: it is neither, for instance a class in place of an object of it.
        ValueError: an unknown name.

    Example:
        >>> granularity_of("neuron")
        Neuron(side='out')
    """
    if isinstance(given, str):
        if given not in GRANULARITIES:
            raise ValueError(
                f"unknown granularity {given!r}; expected one of {', '.join(GRANULARITIES)}{nearest(given, GRANULARITIES)}"
            )
        return GRANULARITIES[given]
    if isinstance(given, type) or not hasattr(given, "build"):
        raise TypeError(
            f"granularity: got {given!r}, expected one of {', '.join(GRANULARITIES)} or an object of ssl_prune.groups, such as "
            'Neuron(side="in")'
        )
    return given


def partition(
    model: nn.Module,
    granularity: str | Granularity,
    *,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    graph: ChannelGraph | None = None,
    example_inputs: Any = None,
) -> Partition:
    """Partition a model's entries into the groups of a granularity.

    Args:
        model: the network; not changed.
        granularity: "weight", "filter", "channel", "shape", "depth", "neuron", "coupled", or an object with a `build`
            method, such as ``Neuron(side="in")``.
        include: name patterns or module types of the layers to look at (default: all), see `select_layers`.
        exclude: the layers to leave out.
        graph: what `ssl_prune.graph.trace` returned, for granularities that need it.
        example_inputs: a tensor, a tuple or a dict to trace the model with if there is no graph.

    Returns:
        The partition; it holds the model's parameters, not copies. Of sharded parameters (DTensors) it is a
        `ShardedPartition`.

    Raises:
        TypeError: a granularity or a model that is none.
        ValueError: an unknown granularity, a pattern without a match, a graph that is needed and missing, no group, or
            parameters that are sharded in a way that is not known.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> groups = partition(net, "neuron")
        >>> groups, groups.describe(5)
        (Partition(7 neuron groups in 2 parameters), '2 neuron 1')
    """
    granularity = granularity_of(granularity)
    select = select_layers(model, include, exclude)
    if graph is None and granularity.needs_graph:
        if example_inputs is None:
            raise ValueError(
                f"{type(granularity).__name__} groups need to know how layers are connected: "
                "pass graph=trace(model, example_inputs), or example_inputs"
            )
        if is_sharded(model.parameters()):
            raise ValueError(
                f"{type(model).__name__} is sharded, and only a whole network can be traced: call trace(model, "
                "example_inputs) before fully_shard(model) and pass graph="
            )
        graph = trace(model, example_inputs)
    return on_shards(granularity.build(model, graph, select))

"""Dead-code elimination over channels: which units some output still needs.

A unit is asked for at its readers. It is needed where a reader finds in it something that depends on the input (or a
constant that cannot move into the bias) and reads it with a non-zero weight into a unit that is itself needed. Starting
from what reaches the outputs, need grows backward until it stops; the rest is dead. Constants that dead units still
carry are folded into the biases of their readers.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_prune.graph import ChannelGraph, Reader
from ssl_prune.inputs import Inputs
from ssl_prune.slimming.values import ChannelValues, ValuePass

__all__ = ["Liveness", "Obstacle", "liveness", "with_kept", "zero_units"]


@dataclass(frozen=True)
class Obstacle:
    """Why some reader needs a channel: what it finds there, and (I,) masks over its input channels."""

    reader: Reader
    seen: ChannelValues
    varies: Tensor
    unfoldable: Tensor


@dataclass(frozen=True)
class Liveness:
    """What is needed, and what readers would have to absorb.

    Args:
        alive: (U,) units that must stay.
        obstacles: per reader, which of its channels cannot be dropped by value.
        edges: (3, E) every non-zero connection between channels: unit written, unit read (-1 for what can never be
            removed), and 1 where what is read there cannot be dropped or folded.
        values: the value pass, for constants and folds.
        weights: name -> parameter, as looked at.
    """

    alive: Tensor
    obstacles: tuple[Obstacle, ...]
    edges: Tensor
    values: ValuePass
    weights: dict[str, nn.Parameter]


def liveness(graph: ChannelGraph, model: nn.Module, inputs: Inputs) -> Liveness:
    """Greatest fixed point of "dead": start with nothing needed and grow.

    Args:
        graph: the channel graph of `model` (or of a network of the same architecture).
        model: the network with the weights to look at, in evaluation mode.
        inputs: the example the graph was traced on, or another of the same shapes.
    """
    watched = [(r.source, _channel_axis(r)) for r in graph.readers]
    values = ValuePass(graph.program, model, inputs, watched)
    weights = dict(model.named_parameters(remove_duplicate=False))
    modules = dict(model.named_modules())
    obstacles = _obstacles(graph, values, modules)
    found = [_edges(o, weights[o.reader.weight]) for o in obstacles if not o.reader.depthwise]
    edges = torch.cat([torch.zeros(3, 0, dtype=torch.long), *found], 1)
    alive = torch.zeros(graph.num_units + 1, dtype=torch.bool)
    alive[-1] = True  # unit -1 stands for everything that is never removed
    _grow(alive, *edges[:2, edges[2] == 1])
    return Liveness(alive[:-1], obstacles, edges, values, weights)


def with_kept(live: Liveness, kept: Tensor) -> Tensor:
    """(U,) what is needed when dead units are kept all the same, because their layer must not be empty.

    A kept unit needs its own inputs only where something needed reads it: elsewhere its value does not matter.

    Args:
        live: what is needed without them.
        kept: (U,) units that are kept.
    """
    alive = torch.cat([live.alive, torch.ones(1, dtype=torch.bool)])
    kept = torch.cat([kept, torch.zeros(1, dtype=torch.bool)])
    counts = (live.edges[2] == 1) | kept[live.edges[1]]
    _grow(alive, *live.edges[:2, counts])
    return alive[:-1] | kept[:-1]


def _grow(alive: Tensor, written: Tensor, read: Tensor) -> None:
    """Mark what needed units read, until nothing is added."""
    before = -1
    while before != (before := int(alive.sum())):
        alive[read[alive[written]]] = True


def zero_units(graph: ChannelGraph, model: nn.Module, without: Collection[str] = ()) -> Tensor:
    """(U,) units of which some writer's row is all zero: what training tried to remove.

    Args:
        graph: the channel graph.
        model: the network with the weights to look at.
        without: names of modules that do not count as writers.
    """
    tensors = dict(model.named_parameters(remove_duplicate=False))
    zero = torch.zeros(graph.num_units + 1, dtype=torch.bool)
    for axis in graph.axes:
        owner = axis.name.rpartition(".")[0]
        if axis.role == "writer" and tensors[axis.name].dim() > 1 and owner not in without:
            weight = tensors[axis.name].detach().movedim(axis.axis, 0).flatten(1)
            zero[axis.units[(weight == 0).all(1).cpu()]] = True
    return zero[:-1]


def _channel_axis(reader: Reader) -> int:
    linear = "linear" in str(reader.node.target)
    return reader.source.meta["val"].dim() - 1 if linear else 1


def _obstacles(graph: ChannelGraph, values: ValuePass, modules: dict[str, nn.Module]) -> tuple[Obstacle, ...]:
    calls = Counter(reader.weight for reader in graph.readers)
    found = []
    for reader in graph.readers:
        seen = values.channels[reader.source, _channel_axis(reader)]
        zero = seen.uniform & (seen.constant == 0)
        # A layer that runs twice may meet two constants, and a computed bias cannot take one in.
        foldable = seen.uniform & (not reader.padded) & (calls[reader.weight] == 1) & _takes_bias(modules, reader)
        found.append(Obstacle(reader, seen, seen.varies.cpu(), (~seen.varies & ~zero & ~foldable).cpu()))
    return tuple(found)


def _takes_bias(modules: dict[str, nn.Module], reader: Reader) -> bool:
    owner, _, leaf = reader.weight.rpartition(".")
    return leaf == "weight" and hasattr(modules.get(owner), "bias") and reader.groups == 1


def _edges(obstacle: Obstacle, weight: nn.Parameter) -> Tensor:
    """(3, E) unit written, unit read and whether its value is in the way, for every non-zero connection."""
    reader = obstacle.reader
    matrix = (weight.detach() != 0).movedim(reader.in_axis, 1).flatten(2).any(2) if weight.dim() > 2 else weight != 0
    rows, columns = matrix.cpu().nonzero(as_tuple=True)
    if reader.groups > 1:
        per_group = len(reader.written) // reader.groups
        columns = columns + rows // per_group * (len(reader.read) // reader.groups)
    matters = (obstacle.varies | obstacle.unfoldable)[columns].long()
    written, read = reader.written[rows], reader.read[columns]
    # One number an edge: unique numbers are found many times faster than unique columns.
    base = int(torch.cat([reader.written, reader.read]).max()) + 2
    keys = (((written + 1) * base + read + 1) * 2 + matters)[read >= 0]
    distinct: Tensor = keys.unique()
    pairs = distinct // 2
    return torch.stack([pairs // base - 1, pairs % base - 1, distinct % 2])

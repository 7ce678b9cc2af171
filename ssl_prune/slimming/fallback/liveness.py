"""Which units are not needed, from weights and runs alone, where there is no program to propagate constants through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_prune.graph.fallback.autograd_graph import AutogradGraph, Layer
from ssl_prune.slimming.analysis.zero_structures import Zeros as Structure

__all__ = ["Zeros", "explain", "zeros"]


@dataclass(frozen=True)
class Zeros:
    """What the weights say.

    Args:
        dead: ``(U,)`` units that no output needs; at least one position of every tensor stays.
        silent: ``(U,)`` units whose value cannot depend on the input.
        loud: unit -> layer that reads something other than zero in a silent unit.
    """

    dead: Tensor
    silent: Tensor
    loud: Mapping[int, str]


def zeros(graph: AutogradGraph, tensors: Mapping[str, Tensor], quiet: Mapping[str, Tensor]) -> Zeros:
    """Greatest fixed point of "dead": start with nothing needed and grow.

    A channel cannot depend on the input where the rows of every layer that writes it are zero, or the scale of every
    norm behind them. It can be dropped by value where it was moreover seen to be exactly zero at a reader; else it is
    needed where a reader's column is not zero in some needed row.

    Args:
        graph: units, and the layers that write and read them.
        tensors: name -> parameter or buffer of the network.
        quiet: layer -> ``(I,)`` input channels that were exactly zero in every trial.

    Example:
        >>> from ssl_prune.graph.fallback.tracer import by_autograd
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> with torch.no_grad():
        ...     _ = net[2].weight[:, 1].zero_()
        >>> zeros(by_autograd(net, torch.randn(2, 4)), net.state_dict(), {}).dead
        tensor([False,  True, False])
    """
    silent = torch.ones(graph.num_units + 1, dtype=torch.bool)
    for layer in graph.layers:
        rows = _matrix(layer, tensors)
        empty = ~rows.any(1)
        if not layer.depthwise:  # a depthwise layer makes nothing of nothing but its bias
            silent[layer.written[~(empty | _scaled_off(layer, tensors))]] = False
    edges = [torch.zeros(2, 0, dtype=torch.long)]
    loud: dict[int, str] = {}
    for layer in graph.layers:
        if layer.depthwise:
            continue
        rows, columns = _matrix(layer, tensors).nonzero(as_tuple=True)
        seen = quiet.get(layer.module)
        zero = seen if seen is not None and len(seen) == len(layer.read) else torch.zeros(len(layer.read)).bool()
        needs = ~(silent[layer.read] & zero)
        for unit in layer.read[silent[layer.read] & ~zero].unique().tolist():
            loud.setdefault(unit, layer.module)
        chosen = needs[columns] & (layer.read[columns] >= 0)
        edges.append(torch.stack([layer.written[rows[chosen]], layer.read[columns[chosen]]]).unique(dim=1))
    alive = torch.zeros(graph.num_units + 1, dtype=torch.bool)
    alive[-1] = True  # unit -1 stands for everything that is never removed
    written, read = torch.cat(edges, 1)
    before = -1
    while before != (before := int(alive.sum())):
        alive[read[alive[written]]] = True
    dead = ~alive[:-1]
    for axis in (*graph.axes, *graph.buffers):
        if bool((axis.units >= 0).all()) and bool(dead[axis.units].all()):
            dead[axis.units[0]] = False  # what it needs does not matter: nothing needed reads it
    return Zeros(dead, silent[:-1], loud)


def explain(
    graph: AutogradGraph, structures: Collection[Structure], found: Zeros, removed: Tensor
) -> Counter[tuple[str, str]]:
    """(layer, reason) -> number of zero structures that stay.

    Args:
        graph: the units.
        structures: the zero structures that stay.
        found: what `zeros` returned.
        removed: ``(U,)`` units that were removed.
    """
    reasons: Counter[tuple[str, str]] = Counter()
    told = {(zeros.layer, unit) for zeros in structures for unit in zeros.units.tolist() if unit >= 0}
    units = {unit for _, unit in told}
    told |= {(graph.unit_layer[u], u) for u in (found.dead & ~removed).nonzero().flatten().tolist() if u not in units}
    for layer, unit in sorted(told, key=lambda pair: pair[::-1]):
        reasons[layer, _reason(found, unit)] += 1
    for zeros in structures:
        count = int((zeros.units < 0).sum())
        if count:
            why = "; ".join(graph.kept.get(zeros.layer, ())) or "they are tied to what no layer writes"
            reasons[zeros.layer, f"its channels can never be removed: {why}"] += count
    return reasons


def _reason(found: Zeros, unit: int) -> str:
    if bool(found.dead[unit]):
        return "the proof did not hold without it"
    if not bool(found.silent[unit]):
        return "another layer or norm that handles it is not zero"
    if unit in found.loud:
        return f"{found.loud[unit]} still reads something other than zero there"
    return "a layer that stays keeps one channel"


def _matrix(layer: Layer, tensors: Mapping[str, Tensor]) -> Tensor:
    """``(O, I)`` where a weight connects a channel that the layer reads to one that it writes."""
    weight = (tensors[layer.weight].detach() != 0).cpu()
    return weight.movedim(layer.in_axis, 1).flatten(2).any(2) if weight.dim() > 2 else weight.movedim(layer.in_axis, 1)


def _scaled_off(layer: Layer, tensors: Mapping[str, Tensor]) -> Tensor:
    """``(O,)`` channels whose every norm behind the layer has a zero scale."""
    off = torch.full((len(layer.written),), bool(layer.norms))
    for norm in layer.norms:
        scale = tensors.get(f"{norm}.weight")
        if scale is None or len(scale) != len(off):
            return torch.zeros_like(off)
        off &= (scale.detach() == 0).cpu()
    return off

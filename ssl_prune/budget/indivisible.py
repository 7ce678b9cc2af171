"""What goes together: channels that only leave as one, such as the heads of attention, merged into one group."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssl_prune.graph import ChannelGraph
from ssl_prune.groups import Partition
from ssl_prune.groups.shards import on_shards, whole
from ssl_prune.slimming.analysis.rectangular import regular

__all__ = ["IndivisibleGroups", "indivisible", "units_of"]


@dataclass(frozen=True)
class IndivisibleGroups:
    """Groups of a partition, merged where they can only leave together.

    Args:
        groups: the merged partition of A groups.
        owner: ``(U,)`` the group of each unit, -1 for none.
        fixed: ``(A,)`` groups that cannot leave by themselves all the same; they stay.
    """

    groups: Partition
    owner: Tensor
    fixed: Tensor

    def dead_units(self, dead: Tensor) -> Tensor:
        """``(U,)`` the units of the dead groups ``(A,)``.

        Args:
            dead: ``(A,)`` bool.
        """
        return _dead_units(self.owner, dead)

    def of(self, units: Tensor) -> Tensor:
        """``(A,)`` the groups that have some of the units ``(U,)``.

        Args:
            units: ``(U,)`` bool.
        """
        found = torch.zeros(len(self.fixed), dtype=torch.bool)
        found[self.owner[units & (self.owner >= 0)]] = True
        return found

    def sum(self, values: Tensor) -> Tensor:
        """``(A,)`` sums of numbers ``(U,)`` over the units of each group.

        Args:
            values: ``(U,)`` a number a unit.
        """
        total = torch.zeros(self.groups.num_groups + 1, dtype=values.dtype)
        return total.index_add_(0, self.owner % len(total), values)[:-1]


def units_of(graph: ChannelGraph, groups: Partition) -> Tensor:
    """``(G,)`` the unit that each group of a coupled partition stands for.

    Args:
        graph: the channel graph.
        groups: a partition of one group a unit, see `Coupled`.

    Example:
        >>> from ssl_prune.graph import trace
        >>> from ssl_prune.groups import partition
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> graph = trace(net, torch.zeros(1, 4))
        >>> units_of(graph, partition(net, "coupled", graph=graph))
        tensor([0, 1, 2])
    """
    units = torch.full((groups.num_groups,), -1)
    members = {m.name: m for m in groups.members}
    for axis in graph.axes:
        member = members.get(axis.name)
        if member is None or member.index is None or axis.role == "reader":
            continue
        index = member.index.flatten().cpu()
        if member.index.shape[axis.axis] == len(index) == len(axis.units):
            units[index[index >= 0]] = axis.units[index >= 0]
    return units


def indivisible(graph: ChannelGraph, groups: Partition, kept: Tensor | None = None) -> IndivisibleGroups:
    """Merge the groups of a coupled partition until each can go by itself.

    A head of attention goes as a whole. Of pieces of equal length, as the groups of a convolution are, the same position
    of each goes.

    Args:
        graph: the channel graph.
        groups: a partition of one group a unit, see `Coupled`.
        kept: ``(U,)`` units that stay in any case.

    Example:
        >>> from torch import nn
        >>> from ssl_prune.graph import trace
        >>> from ssl_prune.groups import partition
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 2, 3))
        >>> graph = trace(net, torch.randn(1, 3, 9, 9))
        >>> found = indivisible(graph, partition(net, "coupled", graph=graph))
        >>> found.groups.num_groups  # 4 pairs of each convolution's channels
        8
    """
    groups = whole(groups)
    units = units_of(graph, groups)
    roots = _roots(graph)
    # A unit that something writes and that is in no group keeps what it is tied to.
    free = torch.zeros(graph.num_units, dtype=torch.bool)
    for axis in graph.axes:
        if axis.role != "reader":
            free[axis.units[axis.units >= 0]] = True
    free[units] = False
    for reader in graph.readers:  # of a transposed convolution of groups no group has the rows of one channel alone
        if reader.grouped and reader.in_axis == 0:
            free[reader.written[reader.written >= 0]] = True
    chosen = torch.zeros(graph.num_units, dtype=torch.bool)
    chosen[roots[units]] = True
    number = torch.full((graph.num_units,), -1)
    number[chosen] = torch.arange(int(chosen.sum()))
    owner = number[roots]
    fixed = torch.zeros(int(chosen.sum()), dtype=torch.bool)
    fixed[owner[(free if kept is None else free | kept) & (owner >= 0)]] = True
    tied = [units.flatten() for units in _tied(graph)]
    for group in (owner[torch.cat(tied)].unique().tolist() if tied else []) if len(fixed) else []:
        if group >= 0:
            alone = torch.zeros_like(fixed)
            alone[group] = True
            fixed[group] |= bool(regular(graph, ~_dead_units(owner, alone), level=False).any())
    return IndivisibleGroups(_merged(groups, owner[units], len(fixed)), owner, fixed)


def _dead_units(owner: Tensor, dead: Tensor) -> Tensor:
    return torch.cat([dead.cpu(), torch.zeros(1, dtype=torch.bool)])[owner]


def _roots(graph: ChannelGraph) -> Tensor:
    """``(U,)`` of units that only leave together the same one."""
    parent = list(range(graph.num_units))

    def find(unit: int) -> int:
        while parent[unit] != unit:
            parent[unit] = parent[parent[unit]]
            unit = parent[unit]
        return unit

    for together in _together(graph):
        first, *rest = together[together >= 0].tolist() or [0]
        for other in rest:
            parent[find(other)] = find(first)
    return torch.tensor([find(unit) for unit in range(graph.num_units)])


def _together(graph: ChannelGraph) -> Iterator[Tensor]:
    """Sets of units that leave as one."""
    headed, even = (torch.zeros(graph.num_units + 1, dtype=torch.bool) for _ in range(2))
    for table, _ in graph.equal:
        even[table.flatten()] = True
    for first, second in graph.alike:  # a head of attention, with what it reads and writes
        both = torch.cat([first, second], 1)
        if not bool(even[:-1][both[both >= 0]].any()):  # groups of a convolution vanish together, but shrink before
            headed[both.flatten()] = True
            yield from both
    headed[-1] = False
    tables = [table for table, _ in graph.equal]
    # Fibres of equal length, unless heads have made them so.
    tables += [array.units.flatten(1) for array in graph.arrays if not bool(headed[array.units].any())]
    for table in tables:
        yield from table.t()


def _tied(graph: ChannelGraph) -> Iterator[Tensor]:
    """Units that others must match; all the rest leave freely."""
    for array in graph.arrays:
        yield array.units[array.units >= 0]
    for table in (*(t for t, _ in graph.equal), *(t for pair in graph.alike for t in pair)):
        yield table[table >= 0]


def _merged(groups: Partition, number: Tensor, count: int) -> Partition:
    """The partition with group g called number[g]."""
    table = torch.cat([number, torch.tensor([-1])])
    members = [replace(m, index=table.to(m.index.device)[m.index]) for m in groups.members if m.index is not None]
    layer = torch.zeros(count, dtype=torch.long)
    layer[number.flip(0)] = groups.layer.cpu().flip(0)
    return on_shards(Partition(members, groups.layers, layer, groups.kind))

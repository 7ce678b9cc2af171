"""Partitions of sharded parameters: each process holds some of the entries, and sums over groups go over all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ssl_prune.groups.member import Member
from ssl_prune.groups.partition import Partition
from ssl_prune.groups.reduction import Reduction

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

__all__ = [
    "ShardMember",
    "ShardedPartition",
    "has_shards",
    "is_sharded",
    "local",
    "norms_beside",
    "on_shards",
    "reshard",
    "sum_here",
    "whole",
]


@dataclass(frozen=True, eq=False)
class ShardMember(Member):
    """What this process holds of one parameter.

    Args:
        name: as in `Member`.
        param: the whole parameter, a DTensor; one that is none is the same in all processes.
        index: the group numbers of the entries here.
        starts: for each dimension the position of the first entry here.
        counts: whether the entries count in sums; of replicas only the first ones do.
    """

    starts: tuple[int, ...]
    counts: bool

    @property
    def values(self) -> Tensor:
        """The entries here, as an alias of the parameter's memory."""
        return local(self.param)

    @property
    def grad(self) -> Tensor | None:
        """The gradient of `values`."""
        return None if self.param.grad is None else local(self.param.grad)

    def local(self, tensor: Tensor) -> Tensor:
        """What this process holds of a tensor laid out as the parameter is, such as a momentum."""
        return local(tensor)


class ShardedPartition(Partition):
    """A partition whose parameters are DTensors, as `fully_shard` makes them.

    ``norms()[g] = sqrt(sum over processes of (sum of w_i^2 over the entries i of group g there))``

    No parameter is gathered: each process adds up its own entries, one all-reduce over the mesh completes the vector
    ``(G,)``, and each process scales its own entries. All processes of the mesh must make the same calls. Single entries
    need no sums: of such a partition each process sees its own entries, and ``(G,)`` are those.

    Args:
        whole: the partition of the whole parameters.
        mesh: the mesh over which to add up; default that of the parameters.

    Raises:
        ValueError: a parameter is laid out in another way than ``Shard`` and ``Replicate``, in another mesh than the
            others, or this process is not in the mesh.
    """

    is_sharded = True
    members: tuple[ShardMember, ...]

    def __init__(self, whole: Partition, mesh: DeviceMesh | None = None) -> None:
        self.whole = whole
        self._mesh = _common_mesh(whole.members) if mesh is None else mesh
        self.reduce = Reduction(self._mesh)
        members = [_member_here(m, self._mesh) for m in whole.members]
        super().__init__(members, whole.layers, whole.layer_numbers, whole.kind, allow_empty=True)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all groups of values ``(G,)``, of single entries over those of all processes."""
        if not self.is_entrywise:
            return super().total(values)
        pieces = torch.split(values, self._lengths)
        counted = [piece for piece, member in zip(pieces, self.members, strict=True) if member.counts]
        return self.reduce(torch.cat([values[:0], *counted]).sum())

    def over_processes(self, counts: Tensor) -> Tensor:
        """The sum over the processes of the mesh."""
        return self.reduce(counts.clone())

    def restrict(self, positions: Sequence[int]) -> Partition:
        """The same groups with only some members (by position); single entries are numbered anew."""
        if not self.is_entrywise:
            part = self.whole.restrict(positions)
        else:
            members = [self.whole.members[i] for i in positions]
            part = Partition(members, self.layers, self.whole.layer_numbers[list(positions)], self.kind)
        sharded = ShardedPartition(part, self._mesh)
        sharded.reduce = self.reduce
        return sharded

    def describe(self, g: int) -> str:
        """Name a group by its layer, kind and position there, in the whole parameter."""
        if not self.is_entrywise or not 0 <= g < self.num_groups:
            return super().describe(g) if self.is_entrywise else self.whole.describe(g)
        start = 0
        for here, member in zip(self.members, self.whole.members, strict=True):
            size = here.values.numel()
            if g < size:
                place = torch.unravel_index(torch.tensor(g), here.values.shape)
                at = [int(p) + first for p, first in zip(place, here.starts, strict=True)]
                return self.whole.describe(start + _flat(at, member.param.shape))
            g, start = g - size, start + member.param.numel()
        raise AssertionError("the lengths add up to the number of groups")

    def _in_order(self, rows: Tensor) -> bool:
        return False  # what is in order here is not so elsewhere, and all must add up together

    def _sorted(self, rows: Tensor) -> dict[str, Tensor]:
        counts = [torch.full((n,), m.counts) for n, m in zip(self._lengths, self.members, strict=True)]
        return super()._sorted(torch.where(torch.cat(counts), rows, -1))

    def _count_entries(self) -> Tensor:
        return self.whole.sizes

    @torch.no_grad()
    def squares_here(self) -> Tensor:
        """``(G,)`` the squared norms of what this process holds of each group."""
        rows = self._concatenate([self._row_norms(i, m.values) for i, m in enumerate(self.members)])
        return super()._per_group(rows.square_())

    def _per_group(self, rows: Tensor) -> Tensor:
        return rows if self.is_entrywise else self.reduce(super()._per_group(rows))


def norms_beside(groups: Partition, look: Callable[[], None]) -> Tensor:
    """The norms ``(G,)``; of shards the first sum in `look` takes them along, so that one all-reduce does for both.

    Args:
        groups: the partition, not of single entries.
        look: called once; it changes no parameter.
    """
    if not isinstance(groups, ShardedPartition):
        look()
        return groups.norms()
    groups.reduce.waits = squares = groups.squares_here()
    look()
    if groups.reduce.waits is not None:  # there was no sum
        groups.reduce.waits = None
        groups.reduce(squares)
    return squares.sqrt_()


def sum_here(groups: Partition, tensors: Sequence[Tensor]) -> Tensor:
    """What this process adds to the sum ``(G,)``: `over_processes` makes ``groups.sum(tensors)`` of it."""
    if not isinstance(groups, ShardedPartition):
        return groups.sum(tensors)
    groups.reduce.off = True
    try:
        return groups.sum(tensors)
    finally:
        groups.reduce.off = False


def whole(groups: Partition) -> Partition:
    """The partition of the whole parameters: `groups`, unless they are divided between processes."""
    return groups.whole if isinstance(groups, ShardedPartition) else groups


def on_shards(groups: Partition) -> Partition:
    """The partition with which to work: a `ShardedPartition` if parameters are DTensors, else the one given.

    Raises:
        ValueError: a parameter is laid out in a way that is not known.
    """
    if groups.is_sharded or not is_sharded(m.param for m in groups.members):
        return groups
    return ShardedPartition(groups)


def is_sharded(params: Iterable[Tensor]) -> bool:
    """Whether any of the tensors is a DTensor."""
    return any(_is_dtensor(p) for p in params)


def has_shards(model: nn.Module, around: nn.Module | None = None) -> bool:
    """Whether each process has only a part of the parameters; what a validation has gathered is let go of.

    Args:
        model: the network.
        around: a module that holds it and may be the outermost one under `fully_shard`; default the network.
    """
    reshard(model if around is None else around)
    return is_sharded(model.parameters())


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, as an alias: all of it unless it is a DTensor."""
    if not _is_dtensor(tensor):
        return tensor
    with torch.no_grad():
        return cast("DTensor", tensor).to_local()


def reshard(model: nn.Module) -> None:
    """Make the parameters of a network under `fully_shard` those that the optimizer holds.

    After a forward pass without a backward pass, such as a validation, the outermost module keeps its gathered ones.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    for module in model.modules() if fsdp is not None else ():
        if isinstance(module, fsdp.FSDPModule):
            module.reshard()


def _is_dtensor(tensor: Tensor) -> bool:
    # Nobody has a DTensor before its package is imported, which takes half as long as to import torch.
    package: Any = sys.modules.get("torch.distributed.tensor")
    return package is not None and isinstance(tensor, package.DTensor)


def _common_mesh(members: Sequence[Member]) -> DeviceMesh:
    first, *others = [(m.name, cast("DTensor", m.param).device_mesh) for m in members if _is_dtensor(m.param)]
    for name, mesh in others:
        if mesh != first[1]:
            raise ValueError(
                f"{name} is in the mesh {mesh} and {first[0]} in {first[1]}: the parameters of one penalty must be in one "
                "mesh; give each part of the network a penalty of its own with include and exclude"
            )
    if first[1].get_coordinate() is None:
        raise ValueError(f"{first[0]} is in the mesh {first[1]}, which this process is not a part of")
    return first[1]


def _member_here(member: Member, mesh: DeviceMesh) -> ShardMember:
    """Narrow a member to the entries of this process."""
    from torch.distributed.tensor import Replicate, Shard

    coordinate = cast("list[int]", mesh.get_coordinate())
    placements = getattr(member.param, "placements", (Replicate(),) * mesh.ndim)
    starts, sizes, counts = [0] * member.param.ndim, list(member.param.shape), True
    for place, parts, placement in zip(coordinate, mesh.shape, placements, strict=True):
        if isinstance(placement, Shard):  # the parts are those of torch.chunk: the last ones smaller, or empty
            size = sizes[placement.dim]
            step = -(-size // parts)
            start = min(place * step, size)
            starts[placement.dim] += start
            sizes[placement.dim] = min(step, size - start)
        elif isinstance(placement, Replicate):
            counts = counts and place == 0
        else:
            raise ValueError(
                f"{member.name} is laid out as {tuple(placements)}, expected Shard and Replicate alone: shard it with "
                "fully_shard, or leave its layer out with exclude"
            )
    got = tuple(local(member.param).shape)
    if got != tuple(sizes):
        raise ValueError(
            f"{member.name} has a shard of shape {got} here, expected {tuple(sizes)} of {tuple(member.param.shape)} cut by "
            f"{tuple(placements)} in equal parts: shard it with fully_shard, or leave its layer out with exclude"
        )
    index = member.index
    if index is not None:
        for d in range(index.ndim):
            if index.shape[d] == member.param.shape[d]:
                index = index.narrow(d, starts[d], sizes[d])
    return ShardMember(member.name, member.param, index, tuple(starts), counts, role=member.role)


def _flat(place: Sequence[int], shape: Sequence[int]) -> int:
    number = 0
    for at, size in zip(place, shape, strict=True):
        number = number * size + at
    return number

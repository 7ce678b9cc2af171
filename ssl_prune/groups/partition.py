"""A partition of a network's entries into groups, held as vectors instead of a Python loop over groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Member:
    """One parameter of a partition and the group of each of its entries.

    Args:
        name: the parameter's name in the model, such as ``"conv1.weight"``.
        param: the parameter.
        index: group numbers in ``[-1, G)``, as many dimensions as ``param``, of size 1 in the dimensions that a group
            spans; -1 = in no group. ``None``: every entry is a group of its own, numbered in order across members
            (no index tensor is stored).
    """

    name: str
    param: nn.Parameter
    index: Tensor | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of per-group values laid over the parameter: 1 in the dimensions that a group spans."""
        return tuple((self.param if self.index is None else self.index).shape)

    @property
    def dims(self) -> tuple[int, ...]:
        """The dimensions that a group spans."""
        return tuple(d for d, size in enumerate(self.shape) if size == 1 and self.param.shape[d] != 1)


class Partition:
    """Disjoint groups of entries: norms ``(G,)``, sizes ``(G,)``, and groups scaled by a factor ``(G,)``.

    ``norms()[g] = sqrt(sum of w_i^2 over the entries i of group g)``

    Everything that does not change (row numbers, sort order, sizes) is computed once. The parameters themselves are
    looked up at every call, so ``model.to(...)`` and in-place updates are seen. All members must be on one device.

    Args:
        members: the parameters with their group numbers; a parameter may appear once.
        layers: names of the layers that groups are reported under.
        layer: ``(G,)`` for each group the position of its layer in ``layers``.
        kind: what a group is called in messages: ``"filter"``, ``"channel"``, ...
        allow_empty: accept groups without entries here; their norm is 0.

    Raises:
        ValueError: an index does not broadcast to its parameter, is out of range, or a group has no entries.

    Example:
        >>> w = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        >>> rows = Partition([Member("fc.weight", w, torch.tensor([[0], [1]]))], ("fc",), torch.tensor([0, 0]), "row")
        >>> rows.norms()
        tensor([5., 0.])
        >>> rows.scale_(torch.tensor([0.5, 1.0]))
        >>> w.data[0]
        tensor([1.5000, 2.0000])
        >>> rows.alive().tolist(), rows.describe(1)
        ([True, False], 'fc row 1')
    """

    def __init__(
        self,
        members: Sequence[Member],
        layers: Sequence[str],
        layer: Tensor,
        kind: str,
        *,
        allow_empty: bool = False,
    ) -> None:
        if not members:
            raise ValueError("a partition needs at least one member, got none")
        self.members = tuple(members)
        self.layers = tuple(layers)
        self.kind = kind
        self.num_groups = int(layer.numel())
        self._check()
        self._lengths = [prod(m.shape) for m in self.members]
        self._shapes = [m.shape for m in self.members]
        self._dims = [m.dims for m in self.members]
        # Reductions over trailing dimensions are one fast kernel; over leading ones square().sum() is 7 times faster.
        self._trailing = [d == tuple(range(m.param.ndim - len(d), m.param.ndim)) for d, m in self._with_dims()]
        wide = any(m.param.dtype == torch.float64 for m in self.members)
        self.dtype = torch.float64 if wide else torch.float32
        self.is_entrywise = all(m.index is None for m in self.members)
        self.has_ungrouped = False
        self._scratch: list[list[Tensor]] = []
        self._tables: dict[str, Tensor] = {"layer": layer.to(torch.long)}
        self._index_groups(allow_empty)
        per_row = [torch.full((n,), m.param.numel() / n) for n, m in zip(self._lengths, self.members, strict=True)]
        self._tables["sizes"] = self._per_group(torch.cat(per_row)) if not self.is_entrywise else torch.ones(1)
        self._sync()

    @property
    def lengths(self) -> list[int]:
        """How many group numbers each member's index has."""
        return list(self._lengths)

    @property
    def sizes(self) -> Tensor:
        """``(G,)`` float32: entries of each group."""
        sizes = self._sync()["sizes"]
        return sizes.expand(self.num_groups) if self.is_entrywise else sizes

    @property
    def layer(self) -> Tensor:
        """``(G,)`` the position in ``layers`` of the layer that each group is reported under."""
        return self._sync()["layer"]

    @torch.no_grad()
    def norms(self) -> Tensor:
        """The l2 norm ``(G,)`` of each group, in float32 (float64 if a member is); NaN where a group holds a NaN."""
        self._sync()
        rows = self._concatenate([self._row_norms(i, m.param) for i, m in enumerate(self.members)])
        return rows.abs_() if self._aligned else self._per_group(rows.square_()).sqrt_()

    @torch.no_grad()
    def sum(self, tensors: Sequence[Tensor]) -> Tensor:
        """The sum ``(G,)`` of each group's entries in ``tensors``, one tensor a member and shaped as its parameter."""
        self._sync()
        rows = [
            (t.sum(dim=dims, dtype=self.dtype) if dims else t.to(self.dtype)).reshape(-1)
            for t, dims in zip(tensors, self._dims, strict=True)
        ]
        return self._per_group(self._concatenate(rows))

    @torch.no_grad()
    def expand(self, values: Tensor, fill: float = 1.0) -> list[Tensor]:
        """Lay values ``(G,)`` over the parameters: a tensor a member that broadcasts to it; `fill` where ungrouped."""
        tables = self._sync()
        values = values.to(tables["layer"].device)
        if "rows" in tables:
            if self.has_ungrouped:
                values = torch.cat([values, values.new_full((1,), fill)])
            values = values.index_select(0, tables["rows"])
        pieces: Sequence[Tensor] = torch.split(values, self._lengths)
        return [piece.view(shape) for piece, shape in zip(pieces, self._shapes, strict=True)]

    @torch.no_grad()
    def scale_(self, factor: Tensor) -> None:
        """Multiply each group in place by its factor ``(G,)``; entries in no group are left alone."""
        torch._foreach_mul_([m.param for m in self.members], self.expand(factor))

    @torch.no_grad()
    def alive(self) -> Tensor:
        """``(G,)`` bool: any entry of the group is not zero (a NaN is not zero)."""
        return self.sum([m.param != 0 for m in self.members]) > 0

    def scratch(self, count: int) -> list[list[Tensor]]:
        """`count` lists of tensors shaped as the parameters, for results on the way; the next caller gets the same ones."""
        device = self.members[0].param.device
        if len(self._scratch) < count or self._scratch[0][0].device != device:
            self._scratch = [[torch.empty_like(m.param, dtype=self.dtype) for m in self.members] for _ in range(count)]
        return self._scratch[:count]

    def restrict(self, positions: Sequence[int]) -> Partition:
        """The same groups with only some members (by position); group numbers and layers stay as they are."""
        if self.is_entrywise:
            starts = torch.tensor([0, *self._lengths]).cumsum(0).tolist()
            index = {i: torch.arange(starts[i], starts[i + 1]).view(self._shapes[i]) for i in positions}
        else:
            index = {i: found for i in positions if (found := self.members[i].index) is not None}
        members = [Member(self.members[i].name, self.members[i].param, index[i]) for i in positions]
        return Partition(members, self.layers, self.layer.cpu(), self.kind, allow_empty=True)

    def describe(self, g: int) -> str:
        """Name a group by its layer, kind and position there: ``"conv1 filter 3"``."""
        if not 0 <= g < self.num_groups:
            raise IndexError(f"group {g} does not exist: this partition has {self.num_groups} groups (0 to G - 1)")
        layer = self.layers[int(self.layer[g])]
        return " ".join([layer, self.kind, *self._position(g, layer)])

    def __repr__(self) -> str:
        return f"Partition({self.num_groups} {self.kind} groups in {len(self.members)} parameters)"

    def _position(self, g: int, layer: str) -> list[str]:
        start = 0
        found: list[str] = []
        for member, length in zip(self.members, self._lengths, strict=True):
            if member.index is None:
                at = torch.tensor([g - start]) if start <= g < start + length else torch.tensor([], dtype=torch.long)
            else:
                at = (member.index.reshape(-1) == g).nonzero().reshape(-1)
            start += length
            if not at.numel():
                continue
            axes = [d for d, size in enumerate(member.shape) if size > 1]
            place = [int(torch.unravel_index(at[0], member.shape)[d]) for d in axes]
            found = [str(place[0] if len(place) == 1 else tuple(place))] if place else []
            if member.name.rpartition(".")[0] == layer:
                break
        return found

    def _check(self) -> None:
        if len({id(m.param) for m in self.members}) != len(self.members):
            raise ValueError(f"a parameter appears twice among the members {[m.name for m in self.members]}")
        if any(m.index is None for m in self.members) and any(m.index is not None for m in self.members):
            raise ValueError("members with and without an index cannot be mixed in one partition")
        for m in self.members:
            if m.index is None:
                continue
            if m.index.ndim != m.param.ndim or any(
                i not in (1, p) for i, p in zip(m.index.shape, m.param.shape, strict=True)
            ):
                raise ValueError(f"{m.name}: index {tuple(m.index.shape)} does not broadcast to {tuple(m.param.shape)}")
            low, high = int(m.index.min()), int(m.index.max())
            if low < -1 or high >= self.num_groups:
                raise ValueError(f"{m.name}: group numbers must be in [-1, {self.num_groups}), got {low} to {high}")

    def _index_groups(self, allow_empty: bool) -> None:
        """Cache each row's group and the order that brings rows of one group together."""
        total = sum(self._lengths)
        self._aligned = True
        if not self.is_entrywise:
            rows = torch.cat([m.index.reshape(-1).cpu() for m in self.members if m.index is not None])
            self.has_ungrouped = bool((rows < 0).any())
            counts = torch.bincount(rows[rows >= 0], minlength=self.num_groups)
            if int(counts.min()) == 0 and not allow_empty:
                raise ValueError(f"group {int(counts.argmin())} has no entries in any member")
            self._aligned = total == self.num_groups and torch.equal(rows, torch.arange(total))
            if not self._aligned:
                order = rows.argsort(stable=True)[int((rows < 0).sum()) :]
                rows = torch.where(rows < 0, self.num_groups, rows)
                self._tables.update(rows=rows, order=order, counts=counts)
        elif total != self.num_groups:
            raise ValueError(f"an entry-wise partition of {total} entries was given {self.num_groups} groups")

    def _sync(self) -> dict[str, Tensor]:
        """Move the cached tables to the device of the parameters, which may have changed since the last call."""
        device = self.members[0].param.device
        if self._tables["layer"].device != device:
            self._tables = {name: table.to(device) for name, table in self._tables.items()}
        return self._tables

    def _per_group(self, rows: Tensor) -> Tensor:
        """Add up rows ``(N,)`` by group; in a fixed order, so that a run can be repeated bit for bit on any device."""
        if self._aligned:
            return rows
        return torch.segment_reduce(
            rows.index_select(0, self._tables["order"]), "sum", lengths=self._tables["counts"], unsafe=True
        )

    def _concatenate(self, rows: list[Tensor]) -> Tensor:
        return torch.cat(rows).to(self.dtype)

    def _row_norms(self, i: int, w: Tensor) -> Tensor:
        dims = self._dims[i]
        if not dims:
            return w.reshape(-1)  # a vector's entries are its row norms, up to the sign
        if self._trailing[i]:
            norms: Tensor = torch.linalg.vector_norm(w, dim=dims, dtype=self.dtype)
            return norms.reshape(-1)
        # In memory that is kept: on a CPU a new tensor costs more than the squares that go into it.
        squares = torch.square(w.to(self.dtype), out=self.scratch(1)[0][i])
        return squares.sum(dim=dims).sqrt_().reshape(-1)

    def _with_dims(self) -> list[tuple[tuple[int, ...], Member]]:
        return list(zip(self._dims, self.members, strict=True))

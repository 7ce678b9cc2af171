"""A partition of a network's entries into groups, held as vectors instead of a Python loop over groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from ssl_prune.groups.flat import Flat, launching_costs
from ssl_prune.groups.member import Member


class Partition:
    """Disjoint groups of entries: norms ``(G,)``, sizes ``(G,)``, and groups scaled by a factor ``(G,)``.

    ``norms()[g] = sqrt(sum of w_i^2 over the entries i of group g)``

    Everything that does not change (row numbers, sort order, sizes) is computed once. The parameters themselves are
    looked up at every call, so ``model.to(...)`` and in-place updates are seen. All members must be on one device.

    Args:
        members: the parameters with their group numbers; a parameter may appear once.
        layers: names of the layers that groups are reported under.
        layer: ``(G,)`` for each group the position of its layer in ``layers``; of single entries one number a member.
        kind: what a group is called in messages: ``"filter"``, ``"channel"``, ...
        allow_empty: accept groups without entries here; their norm is 0.

    Raises:
        ValueError: an index does not broadcast to its parameter, is out of range, or a group has no entries; single
            entries of one member lie in two layers.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        >>> rows = Partition([Member("fc.weight", w, torch.tensor([[0], [1]]))], ("fc",), torch.tensor([0, 0]), "row")
        >>> rows.norms()
        tensor([5., 0.])
        >>> rows.scale_(torch.tensor([0.5, 1.0]))
        >>> w.data[0]
        tensor([1.5000, 2.0000])
        >>> rows.alive().tolist(), rows.describe(1)
        ([True, False], 'fc row 1')
    """

    is_sharded = False

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
        self._lengths = [prod(m.shape) for m in self.members]
        self.is_entrywise = all(m.index is None for m in self.members)
        self.num_groups = sum(self._lengths) if self.is_entrywise else int(layer.numel())
        self._check()
        self.layer_numbers = self._one_a_member(layer) if self.is_entrywise else layer.to(torch.long)
        self._shapes = [m.shape for m in self.members]
        self._dims = [m.dims for m in self.members]
        # Reductions over trailing dimensions are one fast kernel; over leading ones square().sum() is 7 times faster.
        self._trailing = [
            d == tuple(range(m.param.ndim - len(d), m.param.ndim))
            for d, m in zip(self._dims, self.members, strict=True)
        ]
        wide = any(m.param.dtype == torch.float64 for m in self.members)
        self.dtype = torch.float64 if wide else torch.float32
        self.has_ungrouped = False
        self._scratch: list[list[Tensor]] = []
        self._flat: Flat | None = None
        self._tables: dict[str, Tensor] = {}
        self._index_groups(allow_empty)
        self._tables["sizes"] = torch.ones(1) if self.is_entrywise else self._count_entries()
        self._sync()

    @property
    def sizes(self) -> Tensor:
        """``(G,)`` float32: entries of each group."""
        sizes = self._sync()["sizes"]
        return sizes.expand(self.num_groups) if self.is_entrywise else sizes

    @property
    def layer(self) -> Tensor:
        """``(G,)`` the position in ``layers`` of the layer that each group is reported under."""
        layer = self.layer_numbers.to(self.members[0].param.device)
        if not self.is_entrywise:
            return layer
        return layer.repeat_interleave(torch.tensor(self._lengths, device=layer.device))

    @torch.no_grad()
    def norms(self) -> Tensor:
        """The l2 norm ``(G,)`` of each group, in float32 (float64 if a member is); NaN where a group holds a NaN."""
        self._sync()
        values = [m.values for m in self.members]
        if (flat := self.in_a_row(values)) is not None:
            return flat.norms(values, self.dtype)
        rows = self._concatenate([self._row_norms(i, m.values) for i, m in enumerate(self.members)])
        return rows.abs_() if self._aligned else self._per_group(rows.square_()).sqrt_()

    @torch.no_grad()
    def sum(self, tensors: Sequence[Tensor]) -> Tensor:
        """The sum ``(G,)`` of each group's entries in `tensors`, one tensor a member and shaped as its parameter."""
        self._sync()
        if (flat := self.in_a_row(tensors)) is not None:
            return flat.sum(tensors, self.dtype)
        rows = [
            (t.sum(dim=dims, dtype=self.dtype) if dims else t.to(self.dtype)).reshape(-1)
            for t, dims in zip(tensors, self._dims, strict=True)
        ]
        return self._per_group(self._concatenate(rows))

    @torch.no_grad()
    def expand(self, values: Tensor, fill: float = 1.0) -> list[Tensor]:
        """Lay `values` ``(G,)`` over the parameters: a tensor a member that broadcasts to it; `fill` where ungrouped."""
        tables = self._sync()
        values = values.to(tables["sizes"].device)
        if "rows" in tables:
            if self.has_ungrouped:
                values = torch.cat([values, values.new_full((1,), fill)])
            values = values.index_select(0, tables["rows"])
        pieces: Sequence[Tensor] = torch.split(values, self._lengths)
        return [piece.view(shape) for piece, shape in zip(pieces, self._shapes, strict=True)]

    @torch.no_grad()
    def scale_(self, factor: Tensor) -> None:
        """Multiply each group in place by its `factor` ``(G,)``; entries in no group are left alone."""
        self._sync()
        values = [m.values for m in self.members]
        if all(v.dtype == factor.dtype for v in values) and (flat := self.in_a_row(values)) is not None:
            flat.multiply_(values, flat.spread(factor.to(values[0].device)))
        else:
            torch._foreach_mul_(values, self.expand(factor))

    @torch.no_grad()
    def alive(self) -> Tensor:
        """``(G,)`` bool: any entry of the group is not zero (a NaN is not zero)."""
        return self.sum([m.values != 0 for m in self.members]) > 0

    def total(self, values: Tensor) -> Tensor:
        """The sum over all groups of values ``(G,)``."""
        return values.sum()

    def over_processes(self, counts: Tensor) -> Tensor:
        """The sum of `counts` over the processes among which the parameters are divided."""
        return counts

    def at_most(self, count: int) -> bool:
        """Whether no more than `count` groups are alive."""
        # Norms are cheap but underflow: what they call few is counted entry by entry.
        return int(self.total(self.norms() != 0)) <= count and int(self.total(self.alive())) <= count

    def scratch(self, count: int) -> list[list[Tensor]]:
        """`count` lists of tensors shaped as the parameters, for results on the way; the next caller gets the same ones."""
        device = self.members[0].param.device
        if len(self._scratch) < count or self._scratch[0][0].device != device:
            self._scratch = [[torch.empty_like(m.values, dtype=self.dtype) for m in self.members] for _ in range(count)]
        return self._scratch[:count]

    def in_a_row(self, tensors: Sequence[Tensor]) -> Flat | None:
        """What works on all of the tensors at once, if it can: they lie in memory as the parameters do."""
        if self.is_entrywise or self.is_sharded or not launching_costs(self.members[0].param.device):
            return None
        if self._flat is None or not self._flat.fits([m.values for m in self.members]):
            self._flat = Flat(self.members, self.num_groups) if Flat.suits(self.members) else None
        return self._flat if self._flat is not None and self._flat.fits(tensors) else None

    def restrict(self, positions: Sequence[int]) -> Partition:
        """The same groups with only the members at `positions`; group numbers and layers stay as they are."""
        if self.is_entrywise:
            starts = torch.tensor([0, *self._lengths]).cumsum(0).tolist()
            index = {i: torch.arange(starts[i], starts[i + 1]).view(self._shapes[i]) for i in positions}
        else:
            index = {i: found for i in positions if (found := self.members[i].index) is not None}
        members = [replace(self.members[i], index=index[i]) for i in positions]
        return Partition(members, self.layers, self.layer.cpu(), self.kind, allow_empty=True)

    def describe(self, g: int) -> str:
        """Name group `g` by its layer, kind and position there: ``"conv1 filter 3"``; IndexError if there is none."""
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
                i not in (1, p) for i, p in zip(m.index.shape, m.values.shape, strict=True)
            ):
                raise ValueError(f"{m.name}: index {tuple(m.index.shape)} does not broadcast to {tuple(m.param.shape)}")
            if not m.index.numel():
                continue
            low, high = int(m.index.min()), int(m.index.max())
            if low < -1 or high >= self.num_groups:
                raise ValueError(f"{m.name}: group numbers must be in [-1, {self.num_groups}), got {low} to {high}")

    def _index_groups(self, allow_empty: bool) -> None:
        """Cache each row's group and the order that brings rows of one group together."""
        self._aligned = True
        if not self.is_entrywise:
            rows = torch.cat([m.index.reshape(-1).cpu() for m in self.members if m.index is not None])
            self.has_ungrouped = bool((rows < 0).any())
            if not allow_empty:
                counts = torch.bincount(rows[rows >= 0], minlength=self.num_groups)
                if int(counts.min()) == 0:
                    raise ValueError(f"group {int(counts.argmin())} has no entries in any member")
            self._aligned = self._in_order(rows)
            if not self._aligned:
                self._tables["rows"] = torch.where(rows < 0, self.num_groups, rows)
                self._tables.update(self._sorted(rows))

    def _one_a_member(self, layer: Tensor) -> Tensor:
        """Of single entries one number a member: a number an entry would take more memory than the weights."""
        if layer.numel() == len(self.members):
            return layer.to(torch.long)
        if layer.numel() != self.num_groups:
            raise ValueError(f"an entry-wise partition of {self.num_groups} entries was given {layer.numel()} groups")
        pieces = torch.split(layer.to(torch.long), self._lengths)
        mixed = [m.name for m, piece in zip(self.members, pieces, strict=True) if bool((piece != piece[:1]).any())]
        if mixed:
            raise ValueError(f"{mixed[0]}: its single entries are in two layers, expected one")
        return torch.cat([piece[:1] for piece in pieces])

    def _in_order(self, rows: Tensor) -> bool:
        """Whether each row is the group of its number, so that there is nothing to add up."""
        return rows.numel() == self.num_groups and torch.equal(rows, torch.arange(rows.numel()))

    def _sorted(self, rows: Tensor) -> dict[str, Tensor]:
        """The order that brings rows of one group together, and how many rows each group has."""
        order = rows.argsort(stable=True)[int((rows < 0).sum()) :]
        return {"order": order, "counts": torch.bincount(rows[rows >= 0], minlength=self.num_groups)}

    def _count_entries(self) -> Tensor:
        per_row = [torch.full((n,), m.param.numel() / n) for n, m in zip(self._lengths, self.members, strict=True)]
        return self._per_group(torch.cat(per_row))

    def _sync(self) -> dict[str, Tensor]:
        """Move the cached tables to the device of the parameters, which may have changed since the last call."""
        device = self.members[0].param.device
        if self._tables["sizes"].device != device:
            self._tables = {name: table.to(device) for name, table in self._tables.items()}
            self._flat = None
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

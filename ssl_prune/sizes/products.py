"""Sums of products of how many units of some sets are alive: what sizes of networks are made of."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

__all__ = ["Products"]


class Products:
    """``Σ_l scale_l · Π_k alive(set_lk)`` over sets of units; unit -1 is always alive.

    Args:
        num_units: U.
        round_to: every count is the next multiple of it, at most that of the whole set.

    Example:
        >>> products = Products(4)
        >>> products.add(3.0, [torch.tensor([0, 1]), torch.tensor([2, 3, -1])])
        >>> products.total(torch.tensor([True, False, False, True]))  # 3 * 1 * 2
        6.0
    """

    def __init__(self, num_units: int, round_to: int = 1) -> None:
        self._num, self._round = num_units, round_to
        self._scale: list[float] = []
        self._sets: list[list[Tensor]] = []
        self._owner: list[str | None] = []
        self._grouped: list[tuple[int, int, Tensor]] = []
        self._ready: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def add(self, scale: float, sets: Sequence[Tensor], groups: int = 1, owner: str | None = None) -> None:
        """One more product.

        Args:
            scale: what it is multiplied by.
            sets: (n,) units each; of none it is the scale alone.
            groups: the last set has so many groups in a row that keep equally many units, or none: each counts what one
                of them keeps.
            owner: module with which it goes.
        """
        if groups > 1:
            self._grouped.append((len(self._sets), len(sets) - 1, sets[-1].cpu().view(groups, -1)))
        self._scale.append(float(scale))
        self._sets.append([units.cpu() for units in sets])
        self._owner.append(owner)
        self._ready = None

    def total(self, alive: Tensor, gone: Collection[str] = ()) -> float:
        """The sum.

        Args:
            alive: (U,) units.
            gone: owners whose products are zero.
        """
        scale = self._tables()[0]
        if gone:
            scale = scale * torch.tensor([owner not in gone for owner in self._owner])
        return float((scale * self._counts(alive, self._round).prod(1)).sum())

    def each(self, alive: Tensor) -> Tensor:
        """``(U,)`` by how much the sum falls with each unit that is alive."""
        scale, units, place, _ = self._tables()
        counts, divisors = self._counts(alive), self._divisors(alive)
        wide = counts.shape[1]
        others = [counts[:, [k for k in range(wide) if k != own]].prod(1) for own in range(wide)]
        each = scale[:, None] * torch.stack(others, 1) / divisors
        found = torch.zeros(self._num + 1, dtype=torch.float64).index_add_(0, units, each.flatten()[place])
        return found[:-1] * alive

    def _counts(self, alive: Tensor, round_to: int = 1) -> Tensor:
        """(L, K) units of each set that are alive; 1 where a product has fewer sets."""
        _, units, place, most = self._tables()
        counts = torch.zeros(most.numel(), dtype=torch.float64).index_add_(0, place, self._flags(alive)[units])
        counts = counts.view_as(most) / self._divisors(alive)
        return torch.minimum((counts / round_to).ceil() * round_to, most) if round_to > 1 else counts

    def _divisors(self, alive: Tensor) -> Tensor:
        """(L, K) groups of each set of which something is alive."""
        divisors = torch.ones_like(self._tables()[3])
        for row, column, units in self._grouped:
            divisors[row, column] = max(1.0, float(self._flags(alive)[units].amax(1).sum()))
        return divisors

    def _flags(self, alive: Tensor) -> Tensor:
        return torch.cat([alive.cpu(), torch.ones(1, dtype=torch.bool)]).double()

    def _tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(L,) scales, (N,) units of all sets, (N,) in which of the L · K each is, and (L, K) how many each has at most."""
        if self._ready is None:
            wide = max((len(sets) for sets in self._sets), default=1) or 1
            full = [[*sets, *[torch.tensor([-1])] * (wide - len(sets))] for sets in self._sets]
            flat = [units for sets in full for units in sets]
            lengths = torch.tensor([len(units) for units in flat], dtype=torch.long)
            units = torch.cat(flat) if flat else torch.zeros(0, dtype=torch.long)
            place = torch.arange(len(flat)).repeat_interleave(lengths)
            most = lengths.double().view(-1, wide)
            for row, column, members in self._grouped:
                most[row, column] = members.shape[1]
            self._ready = torch.tensor(self._scale, dtype=torch.float64), units % (self._num + 1), place, most
        return self._ready

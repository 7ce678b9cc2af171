"""Sums of products of how many units of some sets are alive: what sizes of networks are made of."""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Products"]

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


class Products:
    """``Σ_l scale_l · Π_k alive(set_lk)`` over sets of units; unit -1 is always alive.

    Arrays are numpy's: a budget asks for hundreds of sums of a few hundred numbers at each decision.

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
        self._grouped: list[tuple[int, int, Places]] = []
        self._ready: tuple[Array, Places, Places, Array] | None = None

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
            self._grouped.append((len(self._sets), len(sets) - 1, sets[-1].cpu().view(groups, -1).numpy()))
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
            scale = scale * np.array([owner not in gone for owner in self._owner])
        return float((scale * self._counts(self._flags(alive), self._round).prod(1)).sum())

    def each(self, alive: Tensor) -> Tensor:
        """``(U,)`` by how much the sum falls with each unit that is alive."""
        scale, units, place, _ = self._tables()
        flags = self._flags(alive)
        counts, divisors = self._counts(flags), self._divisors(flags)
        wide = counts.shape[1]
        others = [counts[:, [k for k in range(wide) if k != own]].prod(1) for own in range(wide)]
        each = scale[:, None] * np.stack(others, 1) / divisors
        found = np.bincount(units, each.ravel()[place], minlength=self._num + 1)
        return torch.from_numpy(found[:-1] * flags[:-1])

    def _counts(self, flags: Array, round_to: int = 1) -> Array:
        """(L, K) units of each set that are alive; 1 where a product has fewer sets."""
        _, units, place, most = self._tables()
        counts = np.asarray(np.bincount(place, flags[units], minlength=most.size), np.float64).reshape(most.shape)
        if self._grouped:
            counts = counts / self._divisors(flags)
        return np.minimum(np.ceil(counts / round_to) * round_to, most) if round_to > 1 else counts

    def _divisors(self, flags: Array) -> Array:
        """(L, K) groups of each set of which something is alive."""
        divisors: Array = np.ones(self._tables()[3].shape)
        for row, column, units in self._grouped:
            divisors[row, column] = max(1.0, flags[units].max(1).sum())
        return divisors

    def _flags(self, alive: Tensor) -> Array:
        flags = np.ones(self._num + 1)
        flags[:-1] = alive.cpu().numpy()
        return flags

    def _tables(self) -> tuple[Array, Places, Places, Array]:
        """(L,) scales, (N,) units of all sets, (N,) in which of the L · K each is, and (L, K) how many each has at most."""
        if self._ready is None:
            wide = max((len(sets) for sets in self._sets), default=1) or 1
            full = [[*sets, *[torch.tensor([-1])] * (wide - len(sets))] for sets in self._sets]
            flat = [units for sets in full for units in sets]
            lengths = np.array([len(units) for units in flat], dtype=np.int64)
            units = torch.cat(flat).numpy() if flat else np.zeros(0, dtype=np.int64)
            place = np.arange(len(flat)).repeat(lengths)
            most = lengths.astype(np.float64).reshape(-1, wide)
            for row, column, members in self._grouped:
                most[row, column] = members.shape[1]
            self._ready = np.array(self._scale), units % (self._num + 1), place, most
        return self._ready

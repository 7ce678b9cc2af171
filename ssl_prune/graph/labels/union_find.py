"""Disjoint sets of labels, united many pairs at a time."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["PINNED", "WILDCARD", "UnionFind"]

PINNED = 0
WILDCARD = -1


class UnionFind:
    """Labels in disjoint sets; the smallest label of a set is its root.

    Label 0 is pinned: whatever joins it can never be removed. Label -1 is a wildcard (constants, padding): it joins
    nothing.

    Which set was pinned when is remembered: beside paths that are compressed whenever they are followed stand those that
    never are, so that the last label before 0 names the set as it stood then. `pinned` lists these sets beside the labels
    they met and what `now` held.

    Example:
        >>> sets = UnionFind()
        >>> a, b = sets.new(2), sets.new(2)
        >>> sets.unite(a, b)
        >>> sets.find(b).tolist() == a.tolist()
        True
    """

    def __init__(self) -> None:
        self._memory = torch.zeros(2, 1, dtype=torch.long)
        self._parent, self._above = self._memory  # as much of it as is in use; the second is compressed
        self.now: Any = None
        self.pinned: list[tuple[Tensor, Tensor, Any]] = []

    def __len__(self) -> int:
        """How many labels there are, the pinned one included."""
        return len(self._parent)

    def new(self, count: int) -> Tensor:
        """`count` fresh labels, each a set of its own."""
        start = len(self._parent)
        labels = torch.arange(start, start + count)
        if start + count > self._memory.shape[1]:
            used = torch.stack([self._parent, self._above])
            self._memory = torch.cat([used, labels.expand(2, -1), torch.zeros_like(used)], 1)
        self._memory[:, start : start + count] = labels
        self._parent, self._above = self._memory[:, : start + count]
        return labels

    def find(self, labels: Tensor) -> Tensor:
        """The root of each label, shaped as `labels`; wildcards stay wildcards."""
        known = labels.clamp(min=0)
        roots = self._above[known]
        while not torch.equal(above := self._above[roots], roots):
            roots = above
        self._above[known] = roots
        return torch.where(labels >= 0, roots, labels)

    def unite(self, first: Tensor, second: Tensor) -> None:
        """Join `first[i]` with `second[i]` for every i; shapes broadcast; pairs with a wildcard are skipped."""
        first, second = torch.broadcast_tensors(first, second)
        pairs = torch.stack([first.reshape(-1), second.reshape(-1)])
        pairs = pairs[:, (pairs >= 0).all(0) & (pairs[0] != pairs[1])]
        if pairs.shape[1] > 1:
            # One number a pair: unique numbers are found many times faster than unique columns.
            keys = (pairs[0] * len(self._parent) + pairs[1]).unique()
            pairs = torch.stack([keys // len(self._parent), keys % len(self._parent)])
        roots = pairs
        while pairs.shape[1]:
            roots = self.find(roots)
            low, high = roots.min(0).values, roots.max(0).values
            apart = low != high
            if not bool(apart.any()):
                return
            lost = (low == PINNED) & apart
            if bool(lost.any()):
                met = torch.where(roots[0, lost] == PINNED, pairs[0, lost], pairs[1, lost])
                self.pinned.append((high[lost], met, self.now))
            # A root may meet several smaller ones: it takes the smallest, the next round joins the others.
            for paths in (self._parent, self._above):
                paths.scatter_reduce_(0, high[apart], low[apart], "amin")
            pairs, roots = pairs[:, apart], roots[:, apart]

    def before_pinned(self, labels: Tensor) -> Tensor:
        """The set of each pinned label as it stood when it was pinned, by its root; shaped as `labels`."""
        labels = labels.clone()
        while True:
            above = self._parent[labels]
            if not bool((above != PINNED).any()) or torch.equal(above, labels):
                return labels
            labels = torch.where(above != PINNED, above, labels)

    def pin(self, labels: Tensor) -> None:
        """Mark every label as never removable."""
        self.unite(labels, torch.zeros((), dtype=torch.long))

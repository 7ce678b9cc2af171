"""In which order groups may go: floors, what always stays, and what goes together."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

__all__ = ["Order", "Rules"]


@dataclass(frozen=True)
class Order:
    """Groups in the order in which they may go, in steps of those that go together.

    Args:
        groups: (K,) their numbers.
        keys: (K,) their keys; those of a step have the same one.
        ends: (S,) how many groups there are up to each step and with it.
        count: how many groups there are at all.
    """

    groups: Tensor
    keys: Tensor
    ends: Tensor
    count: int

    def __len__(self) -> int:
        return len(self.ends)

    def step(self, number: int) -> Tensor:
        """The groups of one step."""
        return self.groups[int(self.ends[number - 1]) if number else 0 : int(self.ends[number])]

    def first(self, steps: int) -> Tensor:
        """``(G,)`` the groups of the first steps."""
        found = torch.zeros(self.count, dtype=torch.bool)
        found[self.groups[: int(self.ends[steps - 1]) if steps else 0]] = True
        return found


class Rules:
    """Which groups may go, and which go together.

    Args:
        layer: (G,) the layer of each group.
        min_keep_ratio: share of a layer's groups that stay in any case, at least one.
        fixed: (G,) groups that always stay.
        block: (L,) how many groups of each layer go together, where widths count as multiples: fewer would save nothing.
    """

    def __init__(
        self, layer: Tensor, *, min_keep_ratio: float = 0.0, fixed: Tensor | None = None, block: Tensor | None = None
    ) -> None:
        self.layer = layer.cpu()
        self.fixed = torch.zeros(len(layer), dtype=torch.bool) if fixed is None else fixed.cpu()
        counts = torch.bincount(self.layer)
        self.block = torch.ones_like(counts) if block is None else block.cpu()
        least = torch.tensor([max(1, ceil(min_keep_ratio * n)) if n else 0 for n in counts.tolist()], dtype=torch.long)
        self.least = torch.minimum((least + self.block - 1) // self.block * self.block, counts)

    def allow(self, dead: Tensor) -> bool:
        """Whether every layer has what has to stay without the dead groups (G,)."""
        return bool((torch.bincount(self.layer[~dead], minlength=len(self.least)) >= self.least).all())

    def order(self, keys: Tensor, dead: Tensor, among: Tensor | None = None) -> Order:
        """Groups that may go, smallest keys first: of each layer no more than its floor allows.

        A block has the mean key of its groups; one that has begun counts what is gone of it as nothing.
        """
        free = ~dead & ~self.fixed
        if among is not None:
            free &= among
        order = keys.argsort(stable=True)
        order = order[free[order]]
        alive = torch.bincount(self.layer[~dead], minlength=len(self.least))
        spare = (alive - self.least).clamp_min(0)
        # The rank of each group among those of its layer, in this order.
        by_layer = self.layer[order].argsort(stable=True)
        sorted_layers = self.layer[order][by_layer]
        starts = torch.searchsorted(sorted_layers, sorted_layers)
        rank = torch.empty_like(order)
        rank[by_layer] = torch.arange(len(order)) - starts
        stays = rank < spare[self.layer[order]]
        order, rank = order[stays], rank[stays]
        layer = self.layer[order]
        size, over = self.block[layer], (alive % self.block)[layer]
        number = (rank - over + size) // size  # of the block in its layer: the groups over a multiple are the first one
        block, inverse = torch.unique(layer * (len(keys) + 1) + number, return_inverse=True)
        total = torch.zeros(len(block), dtype=keys.dtype).index_add_(0, inverse, keys[order] / size)
        together = total[inverse]
        arranged = torch.argsort(inverse, stable=True)
        arranged = arranged[together[arranged].argsort(stable=True)]
        _, counts = torch.unique_consecutive(inverse[arranged], return_counts=True)
        return Order(order[arranged], together[arranged], counts.cumsum(0), len(keys))

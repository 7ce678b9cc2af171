"""The order in which groups may go: floors, what always stays, and blocks that go together."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from ssl_prune.selection.largest import tie_keys
from ssl_prune.utils.checks import check_number

__all__ = ["KeepRules", "RemovalOrder"]


@dataclass(frozen=True)
class RemovalOrder:
    """Groups in the order in which they may go, in steps of those that go together.

    Args:
        groups: ``(K,)`` their numbers.
        keys: ``(K,)`` their keys; those of a step have the same one.
        ends: ``(S,)`` how many groups there are up to each step and with it.
        count: how many groups there are at all.

    Example:
        >>> rules = KeepRules(torch.tensor([0, 0, 0, 1, 1]), min_keep_ratio=0.5)
        >>> order = rules.order(torch.tensor([3.0, 1.0, 2.0, 0.5, 0.1]), torch.zeros(5, dtype=torch.bool))
        >>> order.groups, order.first(1)
        (tensor([4, 1]), tensor([False, False, False, False,  True]))
    """

    groups: Tensor
    keys: Tensor
    ends: Tensor
    count: int

    def __len__(self) -> int:
        return len(self.ends)

    def step(self, number: int) -> Tensor:
        """The groups of one step.

        Args:
            number: of the step, from 0.
        """
        return self.groups[int(self.ends[number - 1]) if number else 0 : int(self.ends[number])]

    def first(self, steps: int) -> Tensor:
        """``(G,)`` the groups of the first steps.

        Args:
            steps: how many.
        """
        found = torch.zeros(self.count, dtype=torch.bool)
        found[self.groups[: int(self.ends[steps - 1]) if steps else 0]] = True
        return found


class KeepRules:
    """Which groups may go, and which go together.

    Args:
        layer: ``(G,)`` the layer of each group.
        min_keep_ratio: share of a layer's groups that stay in any case, at least one.
        fixed: ``(G,)`` groups that always stay.
        block: ``(L,)`` how many groups of each layer go together, where widths count as multiples: fewer would save nothing.

    Example:
        >>> KeepRules(torch.tensor([0, 0, 0, 1, 1]), min_keep_ratio=0.5).least
        tensor([2, 1])
    """

    def __init__(
        self, layer: Tensor, *, min_keep_ratio: float = 0.0, fixed: Tensor | None = None, block: Tensor | None = None
    ) -> None:
        check_number(min_keep_ratio, "min_keep_ratio", low=0, high=1)
        self.layer = layer.cpu()
        self.fixed = torch.zeros(len(layer), dtype=torch.bool) if fixed is None else fixed.cpu()
        counts = torch.bincount(self.layer)
        self.block = torch.ones_like(counts) if block is None else block.cpu()
        least = torch.tensor([max(1, ceil(min_keep_ratio * n)) if n else 0 for n in counts.tolist()], dtype=torch.long)
        self.least = torch.minimum((least + self.block - 1) // self.block * self.block, counts)

    def allow(self, dead: Tensor) -> bool:
        """Whether every layer has what has to stay without the dead groups ``(G,)``."""
        return bool((torch.bincount(self.layer[~dead], minlength=len(self.least)) >= self.least).all())

    def order(self, keys: Tensor, dead: Tensor, among: Tensor | None = None, seed: int | None = None) -> RemovalOrder:
        """Groups that may go, smallest keys first: of each layer no more than its floor allows.

        A block has the mean key of its groups; one that has begun counts what is gone of it as nothing.

        Args:
            keys: ``(G,)`` how much each group is worth.
            dead: ``(G,)`` those that are gone.
            among: ``(G,)`` those that may go; default all.
            seed: decides between equal keys; None: their numbers do.
        """
        free = ~dead & ~self.fixed
        if among is not None:
            free &= among
        order = torch.arange(len(keys)) if seed is None else tie_keys(torch.arange(len(keys)), seed).argsort()
        drawn = torch.empty_like(order)
        drawn[order] = torch.arange(len(keys))
        order = order[keys[order].argsort(stable=True)]
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
        if seed is None:
            tie = torch.arange(len(block))
        else:
            tie = drawn.new_full((len(block),), len(keys)).scatter_reduce_(0, inverse, drawn[order], "amin")
        arranged = torch.argsort(tie[inverse], stable=True)
        arranged = arranged[together[arranged].argsort(stable=True)]
        _, counts = torch.unique_consecutive(inverse[arranged], return_counts=True)
        return RemovalOrder(order[arranged], together[arranged], counts.cumsum(0), len(keys))

    def keep(self, scores: Tensor, k: int, seed: int = 0) -> Tensor:
        """``(G,)`` the k groups that stay: those of the largest scores, as floors, blocks and fixed groups allow.

        Args:
            scores: ``(G,)`` how much each group is worth.
            k: how many.
            seed: decides between equal scores.

        Raises:
            ValueError: floors keep more than k, or blocks leave no such number.

        Example:
            >>> rules = KeepRules(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), block=torch.tensor([2, 2]))
            >>> rules.keep(torch.tensor([9.0, 8, 7, 6, 1, 4, 3, 2]), 6).tolist()
            [True, True, True, True, False, True, True, False]
        """
        order = self.order(scores.double().cpu(), torch.zeros_like(self.fixed), seed=seed)
        sizes = [order.count, *(order.count - order.ends).tolist()]
        if k not in sizes:
            raise ValueError(
                f"{k} of the {order.count} groups cannot stay: with what has to stay of each layer, and in blocks, there "
                f"can be {min(sizes)} to {order.count}, next to it {min(sizes, key=lambda n: abs(n - k))}"
            )
        return ~order.first(sizes.index(k))

"""Channels that would go and save nothing, where a size falls in steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssl_prune.selection.removal_order import KeepRules

__all__ = ["free_riders"]

SMALL = 0.25  # of what a group of its layer saves in the mean, below which it saves nothing


def free_riders(
    rules: KeepRules, excess: Callable[[Tensor], float], keys: Tensor, dead: Tensor, chosen: Tensor
) -> Tensor:
    """``(G,)`` those of the chosen groups that save nothing: the ones with the largest keys of their layer, down to a step.

    That is where they save a small part of what groups of that layer save in the mean.

    Args:
        rules: the layers, and what always stays.
        excess: of the dead groups ``(G,)``, by how much the size is above its limit.
        keys: ``(G,)`` how much each group is worth.
        dead: ``(G,)`` those that are gone.
        chosen: ``(G,)`` those that would go.

    Example:
        >>> rules = KeepRules(torch.zeros(8, dtype=torch.long))
        >>> keys, none = torch.arange(8.0), torch.zeros(8, dtype=torch.bool)
        >>> excess = lambda dead: 1.0 - int(dead.sum()) // 4 * 0.5  # in steps of four
        >>> free_riders(rules, excess, keys, none, keys < 6).nonzero().flatten()
        tensor([4, 5])
    """
    useless, least = torch.zeros_like(dead), excess(dead | chosen)
    for layer in rules.layer[chosen].unique().tolist():
        here = rules.layer == layer
        groups = (chosen & here).nonzero().flatten()
        groups = groups[keys[groups].argsort(descending=True, stable=True)]

        def cost(count: int, groups: Tensor = groups) -> float:
            trial = dead | chosen
            trial[groups[:count]] = False
            return excess(trial) - least

        rest = here & ~dead & ~chosen & ~rules.fixed
        saved = cost(len(groups)) + least - excess(dead | chosen | rest)
        each = SMALL * saved / (len(groups) + int(rest.sum()))
        low, high = 0 if cost(1) > each else 1, len(groups)
        while 0 < low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if cost(middle) <= each * middle else (low, middle - 1)
        useless[groups[:low]] = True
    return useless

"""Groups taken where their size means something: at their normalisations, else at the weights that write or read them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssl_prune.groups import Partition
from ssl_prune.groups.member import NORMALISATION, WRITING

__all__ = ["Gates"]


class Gates:
    """The part of each group by which it is judged: its scales and shifts; without any its weights and biases; else all.

    What comes after the weights, such as the slopes of a PReLU, says a second time what they say.

    Args:
        groups: the partition.

    Example:
        >>> from ssl_prune.groups import partition
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.PReLU(2), torch.nn.Linear(2, 1))
        >>> groups = partition(net, "coupled", example_inputs=torch.zeros(1, 2))
        >>> gates = Gates(groups)
        >>> groups.sizes, gates(lambda part: part.sizes)  # two weights and a bias, without the slope
        (tensor([4., 4.]), tensor([3., 3.]))
    """

    def __init__(self, groups: Partition) -> None:
        self._parts: list[tuple[Partition, Tensor]] = []  # the last one that a group is in counts
        found = torch.zeros(groups.num_groups, dtype=torch.bool)
        for roles in (NORMALISATION, WRITING, ("other",)):
            positions = [i for i, member in enumerate(groups.members) if member.role in roles]
            if not positions or bool(found.all()):
                continue
            part = groups if len(positions) == len(groups.members) else groups.restrict(positions)
            inside = (part.sizes > 0).cpu()
            found |= inside
            self._parts.insert(0, (part, inside))

    def __call__(self, value: Callable[[Partition], Tensor]) -> Tensor:
        """``(G,)`` for each group the value of its part, of what `value` makes ``(G,)`` of a partition."""
        (first, _), *others = self._parts
        result = value(first)
        for part, inside in others:
            result = torch.where(inside.to(result.device), value(part), result)
        return result

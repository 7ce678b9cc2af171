"""Whether all processes of a run have one mask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssl_prune.masks.mask import Mask
from ssl_prune.utils.agreement import disagreement, place_numbers

__all__ = ["check_agreement"]


def check_agreement(mask: Mask, gather: Callable[[Tensor], Tensor]) -> None:
    """Compare the masks of all processes.

    Of sharded parameters groups are compared; of single entries of these nothing, as each process holds others.

    Args:
        mask: that of this process.
        gather: makes ``(processes, N)`` of this process's ``(N,)`` numbers.

    Raises:
        ValueError: they differ; the message names the first parameter.

    Example:
        >>> from ssl_prune.groups import partition
        >>> groups = partition(torch.nn.Linear(3, 1), "neuron")
        >>> check_agreement(Mask.of_zeros(groups), lambda own: torch.stack([own, own]))
    """
    groups = mask.groups
    if groups.is_sharded and groups.is_entrywise:
        return
    numbers = place_numbers([mask.alive] if groups.is_sharded else mask.present)
    found = disagreement(torch.tensor(numbers), gather)
    if found is not None:
        name = f"the {groups.kind}s" if groups.is_sharded else groups.members[found[0]].name
        raise ValueError(
            f"{name}: processes {found[1]} have another mask there than process 0, expected one for all: choose by numbers "
            "that all processes share, such as averaged gradients and a seed"
        )

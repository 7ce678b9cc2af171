"""Single entries that are zero, inside groups that live."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_prune.groups import Partition

__all__ = ["entries_alive"]


@torch.no_grad()
def entries_alive(groups: Partition) -> list[Tensor | None] | None:
    """For each weight a bool tensor of its shape: it is not zero, or in no group. None for vectors, and for single entries."""
    if groups.is_entrywise:  # they are groups
        return None
    outside: list[Tensor] = []
    if groups.has_ungrouped:
        outside = [mask == 0 for mask in groups.expand(torch.ones_like(groups.sizes), fill=0.0)]
    found: list[Tensor | None] = []
    for i, member in enumerate(groups.members):
        alive = member.values != 0 if member.param.ndim > 1 else None
        found.append(alive | outside[i] if alive is not None and outside else alive)
    return found

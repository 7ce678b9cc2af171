"""Holding zeros at zero while the rest goes on training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ssl_prune.groups import Partition
from ssl_prune.penalties import Penalty


@torch.no_grad()
def zero_masks(groups: Partition, penalty: Penalty) -> list[Tensor]:
    """1 for what lives and 0 for what is zero: one tensor a member, of its dtype, that broadcasts to it.

    Dead groups count as a whole. If the penalty kills single entries, zero entries of weights count too; those of
    vectors do not, because a shift that happens to be 0 (as it is at the start) must be free to move.
    """
    alive = groups.expand(groups.alive().to(groups.dtype))
    masks = []
    for member, group in zip(groups.members, alive, strict=True):
        mask = group.bool()
        if penalty.entrywise and member.param.ndim > 1:
            mask = mask & (member.param != 0) if groups.has_ungrouped is False else _inside(groups, member.param, mask)
        masks.append(mask.to(member.param.dtype))
    return masks


def _inside(groups: Partition, param: nn.Parameter, mask: Tensor) -> Tensor:
    """Single zeros count only in groups: ungrouped entries are not the penalty's business."""
    position = next(i for i, m in enumerate(groups.members) if m.param is param)
    grouped = groups.expand(torch.ones_like(groups.sizes), fill=0.0)[position].bool()
    return mask & ((param != 0) | ~grouped)


@torch.no_grad()
def clear_state(optimizer: Optimizer, param: nn.Parameter, mask: Tensor) -> None:
    """Multiply every state tensor of the parameter's shape (momentum, second moments) by its mask."""
    for value in optimizer.state.get(param, {}).values():
        if isinstance(value, Tensor) and value.shape == param.shape:
            value.mul_(mask)

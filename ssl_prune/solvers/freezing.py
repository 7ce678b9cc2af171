"""Holding zeros at zero while the rest goes on training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from ssl_prune.groups import Member, Partition
from ssl_prune.groups.flat import LIMIT, launching_costs
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
            mask = mask & (member.values != 0) if groups.has_ungrouped is False else _inside(groups, member, mask)
        masks.append(mask.to(member.param.dtype))
    return masks


def _inside(groups: Partition, member: Member, mask: Tensor) -> Tensor:
    """Single zeros count only in groups: ungrouped entries are not the penalty's business."""
    position = next(i for i, m in enumerate(groups.members) if m is member)
    grouped = groups.expand(torch.ones_like(groups.sizes), fill=0.0)[position].bool()
    return mask & ((member.values != 0) | ~grouped)


class Held:
    """Frozen zeros, ready to be held after each step: parameters without any are left out.

    Args:
        masks: of the whole partition, a tensor a member that broadcasts to it: 0 for what is held.
        device: where the parameters are.
        members: those of one optimizer.
        positions: theirs in the whole partition.
    """

    def __init__(
        self, masks: list[Tensor], device: torch.device, members: Sequence[Member], positions: Sequence[int]
    ) -> None:
        self.masks, self.device = masks, device
        own = [masks[i].to(device) for i in positions]
        zeros = torch.stack([(mask == 0).any() for mask in own]).tolist()
        self._members = [member for member, some in zip(members, zeros, strict=True) if some]
        self._own = [mask for mask, some in zip(own, zeros, strict=True) if some]
        if launching_costs(device) and sum(m.values.numel() for m in self._members) <= LIMIT:
            # Of equal shapes all are multiplied by one kernel.
            whole = [(m.values, mask) for m, mask in zip(self._members, self._own, strict=True)]
            self._own = [torch.empty_like(values, dtype=mask.dtype).copy_(mask) for values, mask in whole]

    @torch.no_grad()
    def apply(self) -> None:
        """Set to zero what is held."""
        if self._members:
            torch._foreach_mul_([m.values for m in self._members], self._own)


def touched(groups: Partition, chosen: Tensor) -> list[int]:
    """Positions of the members that have entries of the chosen groups (G,); of a partition into more than single entries."""
    rows = [m.index.reshape(-1) for m in groups.members if m.index is not None]
    inside = torch.cat([chosen.cpu(), torch.zeros(1, dtype=torch.bool)])[torch.cat(rows).cpu()]  # -1 is the last
    ends = torch.tensor([0, *(len(r) for r in rows)]).cumsum(0)
    counts = torch.cat([torch.zeros(1, dtype=torch.long), inside.cumsum(0)])[ends].diff()
    return counts.nonzero().reshape(-1).tolist()


@torch.no_grad()
def read_again(groups: Partition, penalty: Penalty, alive: int | None) -> tuple[list[Tensor], int]:
    """The masks of zeros that were frozen earlier, from parameters that hold them, and how many groups are alive.

    Raises:
        ValueError: more groups live than the `alive` that were left then.
    """
    left = int(groups.total(groups.alive()))
    if alive is not None and left > alive:
        raise ValueError(
            f"the state has frozen all but {alive} groups, but {left} are not zero: with sharded parameters load the "
            "network's weights before the solver's state"
        )
    return zero_masks(groups, penalty), left


def fitting(masks: Sequence[Tensor], groups: Partition) -> list[Tensor]:
    """Saved masks, on the device of the parameters.

    Raises:
        ValueError: they are those of another partition.
    """
    got = [tuple(mask.shape) for mask in masks]
    if len(got) != len(groups.members) or any(
        len(g) != m.param.ndim or any(i not in (1, p) for i, p in zip(g, m.param.shape, strict=True))
        for g, m in zip(got, groups.members, strict=True)
    ):
        wanted = [tuple(m.param.shape) for m in groups.members]
        raise ValueError(f"the state's masks {got} do not fit this partition's parameters {wanted}")
    return [mask.to(m.param.device) for mask, m in zip(masks, groups.members, strict=True)]


@torch.no_grad()
def clear_state(optimizer: Optimizer, member: Member, mask: Tensor) -> None:
    """Multiply every state tensor of the parameter's shape (momentum, second moments) by the member's mask."""
    for value in optimizer.state.get(member.param, {}).values():
        if isinstance(value, Tensor) and value.shape == member.param.shape:
            member.local(value).mul_(mask)

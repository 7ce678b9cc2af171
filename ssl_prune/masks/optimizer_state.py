"""Momentum and other state of entries that have died or come to life."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from ssl_prune.groups import Partition

__all__ = ["clear_state", "multiply_state", "touched"]


@torch.no_grad()
def clear_state(groups: Partition, optimizer: Optimizer, chosen: Tensor) -> None:
    """Set every state tensor of a parameter's shape (momentum, second moments) to zero in the chosen groups.

    Args:
        groups: the partition.
        optimizer: the optimizer; members that it does not train are left out.
        chosen: ``(G,)`` bool.

    Example:
        >>> from ssl_prune.groups import partition
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> sgd = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> sgd.step()
        >>> clear_state(partition(torch.nn.Sequential(layer), "neuron"), sgd, torch.tensor([False, True]))
        >>> sgd.state[layer.weight]["momentum_buffer"]
        tensor([[1., 0.]])
    """
    masks: list[Tensor | None] = list(groups.expand(~chosen, fill=True))
    if not groups.is_entrywise:
        inside = set(touched(groups, chosen))
        masks = [mask if i in inside else None for i, mask in enumerate(masks)]
    multiply_state(groups, optimizer, masks)


@torch.no_grad()
def multiply_state(groups: Partition, optimizer: Optimizer, masks: Sequence[Tensor | None]) -> None:
    """Multiply every state tensor of a member's shape by the member's mask, which broadcasts to it."""
    states: list[Tensor] = []
    factors: list[Tensor] = []
    for member, mask in zip(groups.members, masks, strict=True):
        if mask is None:
            continue
        for value in optimizer.state.get(member.param, {}).values():
            if isinstance(value, Tensor) and value.shape == member.param.shape:
                states.append(member.local(value))
                factors.append(mask.to(value.device, value.dtype))
    if states:
        torch._foreach_mul_(states, factors)


def touched(groups: Partition, chosen: Tensor) -> list[int]:
    """Positions of the members that have entries of the chosen groups ``(G,)``; of a partition into more than single entries."""
    rows = [m.index.reshape(-1) for m in groups.members if m.index is not None]
    inside = torch.cat([chosen.cpu(), torch.zeros(1, dtype=torch.bool)])[torch.cat(rows).cpu()]  # -1 is the last
    ends = torch.tensor([0, *(len(r) for r in rows)]).cumsum(0)
    counts = torch.cat([torch.zeros(1, dtype=torch.long), inside.cumsum(0)])[ends].diff()
    return counts.nonzero().reshape(-1).tolist()

"""Whether all processes of a run hold the same, by one number a tensor."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["disagreement", "place_numbers"]

_PRIME = 2_147_483_629


def place_numbers(bits: Sequence[Tensor]) -> list[int]:
    """A number for the places at which each boolean tensor is true, in its shape.

    Example:
        >>> first, second = place_numbers([torch.tensor([True, False]), torch.tensor([False, True])])
        >>> first == second
        False
    """
    return [_number(each) for each in bits]


def _number(bits: Tensor) -> int:
    places = torch.arange(1, bits.numel() + 1, device=bits.device)
    weighed = torch.where(bits.flatten(), (places * 40_503) % _PRIME, 0).sum()
    return (int(weighed) * 31 + hash(tuple(bits.shape))) % _PRIME


def disagreement(own: Tensor, gather: Callable[[Tensor], Tensor]) -> tuple[int, list[int]] | None:
    """The first number in which processes differ and the processes that differ from the first; None if all agree.

    Args:
        own: ``(N,)`` int64 numbers of this process.
        gather: makes ``(processes, N)`` of this process's ``(N,)``.
    """
    seen = gather(own).view(-1, own.numel()).cpu()
    different = (seen != seen[0]).any(0).nonzero().flatten().tolist()
    if not different:
        return None
    first = different[0]
    return first, (seen[:, first] != seen[0, first]).nonzero().flatten().tolist()

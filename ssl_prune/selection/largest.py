"""Exactly k of many by their scores; equal scores are decided by a seed, alike on every process and device."""

import torch
from torch import Tensor

__all__ = ["largest", "tie_keys"]

_GOLDEN, _FIRST, _SECOND = (
    -0x61C8864680B583EB,
    -0x40A7B892E31B1A47,
    -0x6B2FB644ECCEEE15,
)  # splitmix64, as signed numbers


@torch.no_grad()
def largest(scores: Tensor, k: int, seed: int = 0) -> Tensor:
    """The k entries with the largest scores.

    A threshold would take all entries that are equal to it or none; here as many of them as are missing are drawn.

    Args:
        scores: of any shape; infinite ones count as the largest and smallest.
        k: how many, from 0 to all.
        seed: of the draws. Each entry's draw depends on the seed and its position alone.

    Returns:
        bool, shaped as `scores`, with exactly k True.

    Raises:
        ValueError: no tensor, fewer than k entries, or a score that is NaN.

    Example:
        >>> largest(torch.tensor([3.0, 1.0, 2.0, 1.0]), 2)
        tensor([ True, False,  True, False])
        >>> int(largest(torch.zeros(100), 30).sum())
        30
    """
    if not isinstance(scores, Tensor):
        raise ValueError(f"scores must be a tensor, such as torch.tensor([3.0, 1.0]), got {scores!r}")
    flat = scores.detach().reshape(-1)
    if not isinstance(k, int) or isinstance(k, bool) or not 0 <= k <= len(flat):
        raise ValueError(f"k must be from 0 to the {len(flat)} entries that there are, got {k!r}")
    if bool(flat.isnan().any()):
        raise ValueError(f"the score of entry {int(flat.isnan().nonzero()[0])} is NaN, so nothing can be chosen by it")
    if k == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    edge = flat.topk(k, sorted=False).values.min()
    chosen, equal = flat > edge, (flat == edge).nonzero().reshape(-1)
    missing = k - int(chosen.sum())
    if missing < len(equal):
        equal = equal[tie_keys(equal, seed).topk(missing, largest=False, sorted=False).indices]
    chosen[equal] = True
    return chosen.view(scores.shape)


def tie_keys(positions: Tensor, seed: int) -> Tensor:
    """int64 keys without a pattern, no two of them alike: of a seed and each position, the same on any device.

    Args:
        positions: int64, of any shape.
        seed: any integer.

    Example:
        >>> tie_keys(torch.arange(10), 1)[3] == tie_keys(torch.tensor(3), 1)
        tensor(True)

    Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators (2014), the finalizer of splitmix64.
    """
    start = int(_mixed(torch.tensor(seed & 0x7FFFFFFFFFFFFFFF))) & 0x7FFFFFFF
    return _mixed((positions + (start << 32)) * _GOLDEN)


def _mixed(values: Tensor) -> Tensor:
    """A bijection of 64-bit numbers; the shifts fill with zeros."""
    values = (values ^ _shifted(values, 30)) * _FIRST
    values = (values ^ _shifted(values, 27)) * _SECOND
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, by: int) -> Tensor:
    return (values >> by) & ((1 << (64 - by)) - 1)

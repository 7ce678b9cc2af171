"""Boolean tensors as bytes of eight, for files."""

import torch
from torch import Tensor

__all__ = ["packed", "unpacked"]


def packed(bits: Tensor) -> Tensor:
    """``(⌈n / 8⌉,)`` uint8 of n bits of any shape, the first in the highest place; on the CPU.

    Example:
        >>> packed(torch.tensor([True, False, False, False, False, False, False, True, True]))
        tensor([129, 128], dtype=torch.uint8)
    """
    flat = bits.reshape(-1).to("cpu", torch.uint8)
    rows = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    found = torch.zeros(len(rows), dtype=torch.uint8)
    for place in range(8):
        found |= rows[:, place] << (7 - place)
    return found


def unpacked(packed: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The bits again.

    Raises:
        ValueError: they are of another count.

    Example:
        >>> unpacked(torch.tensor([160], dtype=torch.uint8), (1, 3))
        tensor([[ True, False,  True]])
    """
    count = torch.Size(shape).numel()
    if packed.dtype != torch.uint8 or packed.shape != (-(-count // 8),):
        raise ValueError(f"got {tuple(packed.shape)} bytes of {packed.dtype}, expected ({-(-count // 8)},) of uint8")
    rows = packed.cpu()[:, None] >> torch.arange(7, -1, -1, dtype=torch.uint8)
    return (rows & 1).bool().reshape(-1)[:count].view(shape)

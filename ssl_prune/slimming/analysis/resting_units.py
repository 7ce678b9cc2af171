"""Hidden units of recurrent cells that are zero at all times."""

import torch
from torch import Tensor

__all__ = ["resting"]


def resting(params: list[Tensor], rows: Tensor) -> Tensor:
    """Hidden units whose candidate is always zero: their `rows` of all weights and biases of the cell are."""
    busy = torch.zeros(len(rows), dtype=torch.bool)
    for p in params:
        busy |= (p.detach().cpu()[rows] != 0).reshape(len(rows), -1).any(1)
    return ~busy

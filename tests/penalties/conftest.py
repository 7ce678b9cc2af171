from collections.abc import Callable

import pytest
import torch
from torch import nn

from ssl_prune.groups import Member, Partition

Make = Callable[..., Partition]


@pytest.fixture
def make() -> Make:
    """Groups 0, 1 over the rows of a (3, 2) weight (row 2 in none) and a vector coupled to them; float64 by default."""

    def build(seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Partition:
        generator = torch.Generator().manual_seed(seed)
        w, v = (nn.Parameter(scale * torch.randn(s, generator=generator, dtype=dtype)) for s in ((3, 2), (2,)))
        members = [Member("a.weight", w, torch.tensor([[0], [1], [-1]])), Member("a.bias", v, torch.tensor([0, 1]))]
        return Partition(members, ("a",), torch.tensor([0, 0]), "row")

    return build

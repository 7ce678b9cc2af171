from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ssl_prune.groups import Member, Partition


class Net(nn.Module):
    """Two linear layers; group g is row g of the first with its bias, as hidden units are."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))

    def units(self) -> Partition:
        rows = torch.arange(6)
        members = [Member("a.weight", self.a.weight, rows[:, None]), Member("a.bias", self.a.bias, rows)]
        return Partition(members, ("a",), torch.zeros(6, dtype=torch.long), "unit")

    def backward(self, step: int, parts: int = 1) -> None:
        """Gradients of step `step`, over `parts` micro-batches."""
        self.zero_grad()
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(8, 4, generator=generator), torch.randn(8, 2, generator=generator)
        for x_part, y_part in zip(x.chunk(parts), y.chunk(parts), strict=True):
            (nn.functional.mse_loss(self(x_part), y_part) / parts).backward()

    def flat(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.parameters()])


@pytest.fixture
def new_net() -> Callable[[], Net]:
    def build() -> Net:
        torch.manual_seed(0)
        return Net()

    return build

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ssl_prune.groups import Member, Partition


class Net(nn.Module):
    """Two linear layers; group g is row g of the first with its bias. The last row is in no group."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))

    def units(self) -> Partition:
        rows = torch.tensor([0, 1, 2, 3, 4, -1])
        members = [Member("a.weight", self.a.weight, rows[:, None]), Member("a.bias", self.a.bias, rows)]
        return Partition(members, ("a",), torch.zeros(5, dtype=torch.long), "unit")

    def singles(self) -> Partition:
        members = [Member("a.weight", self.a.weight, None), Member("b.weight", self.b.weight, None)]
        return Partition(members, ("a", "b"), torch.tensor([0, 1]), "weight")

    def loss(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(8, 4, generator=generator), torch.randn(8, 2, generator=generator)
        dtype = self.a.weight.dtype
        return nn.functional.mse_loss(self(x.to(dtype)), y.to(dtype))

    def backward(self, step: int) -> None:
        self.zero_grad()
        self.loss(step).backward()

    def flat(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.parameters()])


@pytest.fixture
def new_net() -> Callable[[], Net]:
    def build() -> Net:
        torch.manual_seed(0)
        return Net()

    return build

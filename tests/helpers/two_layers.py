"""Two linear layers whose hidden units are groups, with fixed data, for what acts after optimizer steps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ssl_prune.groups import Member, Partition


class Net(nn.Module):
    """Group g is row g of the first layer with its bias, of the first `groups` rows; the others are in none."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.a, self.b, self.groups = nn.Linear(4, 6), nn.Linear(6, 2), groups

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))

    def units(self) -> Partition:
        rows = torch.arange(6)
        rows[self.groups :] = -1
        members = [Member("a.weight", self.a.weight, rows[:, None]), Member("a.bias", self.a.bias, rows)]
        return Partition(members, ("a",), torch.zeros(self.groups, dtype=torch.long), "unit")

    def singles(self) -> Partition:
        members = [Member("a.weight", self.a.weight, None), Member("b.weight", self.b.weight, None)]
        return Partition(members, ("a", "b"), torch.tensor([0, 1]), "weight")

    def losses(self, step: int, parts: int = 1) -> list[Tensor]:
        """Of the micro-batches of a step; they add up to the loss of the whole batch."""
        generator = torch.Generator().manual_seed(step)
        batch = torch.randn(8, 4, generator=generator), torch.randn(8, 2, generator=generator)
        pairs = zip(*(t.to(self.a.weight.dtype).chunk(parts) for t in batch), strict=True)
        return [nn.functional.mse_loss(self(x), y) / parts for x, y in pairs]

    def backward(self, step: int, parts: int = 1) -> None:
        """Gradients of a step, over micro-batches."""
        self.zero_grad()
        for loss in self.losses(step, parts):
            loss.backward()

    def flat(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.parameters()])


def nets(groups: int = 6) -> Callable[[], Callable[[], Net]]:
    """A fixture: each call of it builds the same network."""

    @pytest.fixture
    def new_net() -> Callable[[], Net]:
        def build() -> Net:
            torch.manual_seed(0)
            return Net(groups)

        return build

    return new_net

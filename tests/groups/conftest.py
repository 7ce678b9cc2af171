from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class FakeAxis:
    name: str
    axis: int
    role: str
    units: Tensor


@dataclass(frozen=True)
class FakeGraph:
    num_units: int
    axes: tuple[FakeAxis, ...]
    unit_layer: tuple[str, ...] = ()
    bypassed: tuple[str, ...] = ()
    followers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shared: tuple[tuple[Tensor, Tensor], ...] = ()


class Residual(nn.Module):
    """conv1 -> bn1 -> relu -> (conv2 -> bn2) + shortcut -> flatten 2x2 -> fc."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return self.fc((y + self.bn2(self.conv2(y))).flatten(1))


@pytest.fixture
def residual() -> Residual:
    torch.manual_seed(0)
    return Residual()


@pytest.fixture
def residual_graph() -> FakeGraph:
    units = torch.arange(4)
    writers = [("conv1.weight", 0), ("conv2.weight", 0), ("conv2.bias", 0)]
    norms = [("bn1.weight", "scale"), ("bn1.bias", "shift"), ("bn2.weight", "scale"), ("bn2.bias", "shift")]
    axes = (
        *(FakeAxis(name, axis, "writer", units) for name, axis in writers),
        *(FakeAxis(name, 0, role, units) for name, role in norms),
        FakeAxis("conv1.weight", 1, "reader", torch.full((3,), -1)),
        FakeAxis("conv2.weight", 1, "reader", units),
        FakeAxis("fc.weight", 1, "reader", units.repeat_interleave(4)),
        FakeAxis("fc.weight", 0, "writer", torch.full((5,), -1)),
        FakeAxis("fc.bias", 0, "writer", torch.full((5,), -1)),
    )
    return FakeGraph(4, axes, ("conv1",) * 4, ("conv2",), {"conv1": ("bn1",), "conv2": ("bn2",)})

"""The same partitions from a traced graph."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_prune.groups import Neuron, partition


@pytest.fixture(scope="module")
def lenet() -> nn.Module:
    convs = [nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), nn.Conv2d(4, 6, 5), nn.MaxPool2d(2)]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(96, 10), nn.ReLU(), nn.Linear(10, 3))


@pytest.mark.parametrize(
    ("granularity", "groups", "entries"),
    [
        ("weight", 100 + 600 + 960 + 30, 100 + 600 + 960 + 30),
        ("filter", 4 + 6 + 10, 100 + 600 + 960),
        ("channel", 4 + 6 + 10, 600 + 960 + 30),
        ("shape", 25 + 100 + 96 + 10, 100 + 600 + 960 + 30),
        ("neuron", 96 + 10, 960 + 30),
        (Neuron(side="in"), 10, 970),
        ("coupled", 4 + 6 + 10, 104 + 606 + 970),
    ],
    ids=str,
)
def test_counts_of_lenet(lenet: nn.Module, granularity: Any, groups: int, entries: int) -> None:
    found = partition(lenet, granularity, example_inputs=torch.randn(1, 1, 28, 28))
    assert (found.num_groups, int(found.sizes.sum())) == (groups, entries)
    assert found.norms().shape == (groups,)


def test_channel_of_a_flatten_is_what_one_filter_feeds(lenet: nn.Module) -> None:
    groups = partition(lenet, "channel", include="5", example_inputs=torch.randn(1, 1, 28, 28))
    torch.testing.assert_close(groups.norms(), lenet[5].weight.detach().view(10, 6, 16).norm(dim=(0, 2)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv1, self.bn1 = nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.conv2, self.bn2 = nn.Conv2d(5, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn(self.stem(x)))
        z = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(y)))))
        return self.fc(torch.relu(y + z).mean((2, 3)))


def test_a_coupled_group_at_zero_silences_its_channel() -> None:
    net, x = Block().eval(), torch.randn(2, 3, 6, 6)
    for norm in (net.bn, net.bn1, net.bn2):
        nn.init.uniform_(norm.bias, 0.5, 1.0)  # so that the channel that stays is not silent by chance
    groups = partition(net, "coupled", example_inputs=x)
    assert sorted(groups.sizes.int().tolist()) == [36 + 2] * 5 + [27 + 2 + 45 + 2] * 4
    stem = [g for g in range(groups.num_groups) if groups.layers[groups.layer[g]] in ("stem", "conv2")]
    groups.scale_(torch.tensor([float(g not in stem[1:]) for g in range(groups.num_groups)]))
    seen: list[Tensor] = []
    net.fc.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    net(x)
    assert seen[0].any(0).tolist() == [True, False, False, False]


def test_bypassed_layers() -> None:
    net = Block()
    groups = partition(net, "depth", example_inputs=torch.randn(2, 3, 6, 6))
    assert "conv2" in groups.layers
    assert "stem" not in groups.layers
    assert "fc" not in groups.layers

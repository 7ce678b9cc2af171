"""What a parameter is to its groups, from the channel graph where there is one."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_prune.graph import trace
from ssl_prune.groups import Depth, Neuron, partition
from ssl_prune.shrinking import Source, carry


class Scaled(nn.Module):
    """A number a channel after a layer, used by hand."""

    def __init__(self, use, count: int = 4) -> None:
        super().__init__()
        self.a, self.b, self.use = nn.Conv2d(1, count, 1), nn.Conv2d(count, 2, 1), use
        self.g = nn.Parameter(torch.full((count,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.use(self.a(x), self.g.view(-1, 1, 1)))


class Untraceable(nn.Module):
    """A number a channel, in code that only the second tracer follows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.d = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=4)
        self.norm, self.act, self.b = nn.BatchNorm2d(4), nn.PReLU(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e30:
            x = x / 2
        return self.b(self.act(self.norm(self.d(self.a(x)))))


BETWEEN = {
    "batch norm": (nn.BatchNorm2d(4), {"1.weight": "scale", "1.bias": "shift"}),
    "group norm": (nn.GroupNorm(2, 4), {"1.weight": "scale", "1.bias": "shift"}),
    "instance norm": (nn.InstanceNorm2d(4, affine=True), {"1.weight": "scale", "1.bias": "shift"}),
    "prelu": (nn.PReLU(4), {"1.weight": "other"}),
    "one slope for all": (nn.PReLU(), {}),
    "depthwise": (nn.Conv2d(4, 4, 1, groups=4), {"1.weight": "row", "1.bias": "bias"}),
}


def roles(groups):
    return {member.name: member.role for member in groups.members}


@pytest.mark.parametrize("between", BETWEEN)
def test_roles_come_from_how_the_graph_uses_a_parameter(between):
    module, expected = BETWEEN[between]
    net = nn.Sequential(nn.Conv2d(1, 4, 1), module, nn.Conv2d(4, 2, 1))
    groups = partition(net, "coupled", example_inputs=torch.randn(2, 1, 5, 5))
    assert roles(groups) == {"0.weight": "row", "0.bias": "bias", **expected}


@pytest.mark.parametrize(
    ("use", "role"),
    [
        (torch.mul, "other"),  # as LayerScale has it
        (torch.add, "bias"),
        (torch.sub, "bias"),
        (lambda x, g: x + g.abs(), "other"),
        (lambda x, g: torch.where(x > 0, x, g * x), "other"),
        (lambda x, g: x + g * F.silu(x), "other"),
        (lambda x, g: F.batch_norm(x, None, None, weight=g.flatten(), training=True), "scale"),
    ],
)
def test_roles_of_what_is_written_by_hand(use, role):
    groups = partition(Scaled(use), "coupled", example_inputs=torch.randn(2, 1, 3, 3))
    assert roles(groups)["g"] == role


def test_roles_of_the_second_tracer():
    net, x = Untraceable(), torch.randn(2, 1, 3, 3)
    graph = trace(net, x)
    assert type(graph).__name__ == "AutogradGraph"
    assert roles(partition(net, "coupled", graph=graph)) == {
        "a.weight": "row", "a.bias": "bias", "d.weight": "row", "d.bias": "bias",
        "norm.weight": "scale", "norm.bias": "shift", "act.weight": "other",
    }  # fmt: skip
    assert {b.role for b in graph.buffers} == {"statistic"}


def test_roles_of_granularities():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    graph = trace(net, torch.zeros(1, 3))
    assert roles(partition(net, "filter", graph=graph)) == {"0.weight": "row"}
    assert roles(partition(net, "channel", graph=graph)) == {"2.weight": "column"}
    assert set(roles(partition(net, "shape")).values()) == {"column"}
    assert set(roles(partition(net, "neuron")).values()) == {"column"}
    assert roles(partition(net, Neuron(side="in"), graph=graph)) == {"0.weight": "row", "0.bias": "bias"}
    assert set(roles(partition(net, "weight")).values()) == {"row"}


def test_roles_of_a_bypassed_layer(residual, residual_graph):
    groups = partition(residual, Depth(), graph=residual_graph)
    assert roles(groups) == {"conv2.weight": "row", "conv2.bias": "bias", "bn2.weight": "scale", "bn2.bias": "shift"}


def test_roles_stay_in_parts_and_after_a_cut():
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    groups = partition(net, "coupled", example_inputs=torch.randn(2, 1, 5, 5))
    assert roles(groups.restrict([2, 3])) == {"1.weight": "scale", "1.bias": "shift"}
    whole = {n: Source(n, p.shape, torch.arange(p.numel()).view(p.shape)) for n, p in net.named_parameters()}
    left = carry(groups, whole, net)
    assert left is not None
    assert roles(left) == roles(groups)

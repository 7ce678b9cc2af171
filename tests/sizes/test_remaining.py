"""What would be left equals what is left, for random zeros."""

import pytest
import torch
from torch import nn

from ssl_prune import cost, slim
from ssl_prune.graph import trace
from ssl_prune.models import ViT
from ssl_prune.sizes.remaining import remaining


class Mixed(nn.Module):
    """Shortcut, depthwise, groups, transposed and strided convolutions, two readers of one tensor."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.branch = nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1))
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.point = nn.Conv2d(8, 10, 1, bias=False)
        self.up = nn.ConvTranspose2d(10, 4, 2, stride=2)
        self.head, self.side = nn.Linear(4, 3), nn.Linear(10, 2)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(x + self.branch(x))
        x = torch.relu(self.point(torch.relu(self.depthwise(x))))
        return self.head(torch.relu(self.up(x)).mean((2, 3))), self.side(x.mean((2, 3)))


X = torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def kill(net, share, seed):
    """Rows, and with them shifts, of a random share of every layer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
                dead = torch.rand(len(module.weight), generator=generator) < share
                for p in module.parameters(recurse=False):
                    p[dead] = 0
    return net


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.0, 0.4, 0.8, 1.0])
def test_the_numbers_are_those_of_the_cut(share, seed):
    net = kill(Mixed(), share, seed)
    left = remaining(trace(net, X), net, X)
    report = slim(net, X).report
    assert left.macs == report.macs
    assert left.params == report.params
    assert left.units[0] - left.units[1] == sum(report.removed.values())


@pytest.mark.parametrize("heads", [0, 1, 3, 4])
def test_products_of_attention_count(heads):
    net, x = ViT(width=16, depth=2, heads=4, patch=8), torch.randn(1, 3, 32, 32)
    block = net.blocks[1]
    with torch.no_grad():
        for p in (*block.attention.qkv.parameters(), *block.mlp[0].parameters()):
            rows = p.view(-1, 4, 4, *p.shape[1:])
            rows[:, :heads] = 0
    left, report = remaining(trace(net, x), net, x), slim(net, x).report
    assert left.macs == report.macs
    assert left.macs[0] == cost(net, x).macs
    assert (left.macs[1] < left.macs[0]) == (heads > 0)


def test_nothing_changes():
    net = kill(Mixed(), 0.5, 0).train()
    graph = trace(net, X)
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    remaining(graph, net, X)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(m.training for m in net.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_branch_that_goes_leaves_nothing():
    net = Mixed().eval()
    with torch.no_grad():
        for p in net.branch[2].parameters():
            p.zero_()
    left, report = remaining(trace(net, X), net, X), slim(net, X).report
    assert left.macs == report.macs
    assert left.params == report.params
    assert left.params[1] < left.params[0] - net.branch[2].weight.numel()

"""Merged groups leave one by one and in any company."""

import pytest
import torch
from torch import nn

from ssl_prune.budget import indivisible
from ssl_prune.graph import trace
from ssl_prune.groups import partition
from ssl_prune.slimming.analysis.rectangular import regular


@pytest.mark.parametrize("seed", range(3))
def test_any_choice_leaves_arrays(network, seed):
    net, x = network
    graph = trace(net, x)
    parts = indivisible(graph, partition(net, "coupled", graph=graph))
    generator = torch.Generator().manual_seed(seed)
    dead = (torch.rand(parts.groups.num_groups, generator=generator) < 0.5) & ~parts.fixed
    assert not regular(graph, ~parts.dead_units(dead), level=False).any()


def test_nothing_is_lost_or_doubled(network):
    net, x = network
    graph = trace(net, x)
    groups = partition(net, "coupled", graph=graph)
    parts = indivisible(graph, groups)
    assert parts.groups.sizes.sum() == groups.sizes.sum()
    torch.testing.assert_close(parts.groups.norms().square().sum(), groups.norms().square().sum())
    assert parts.groups.num_groups <= groups.num_groups
    ones = parts.sum(torch.ones(graph.num_units))
    assert ones.min() >= 1


def test_heads_are_groups(transformer_network):
    net, x = transformer_network
    graph = trace(net, x)
    parts = indivisible(graph, partition(net, "coupled", graph=graph))
    heads = parts.groups.sizes == 3 * 4 * 17  # four rows and biases each of queries, keys and values
    assert int(heads.sum()) == 8
    assert not parts.fixed.any()


def test_channels_that_an_excluded_layer_writes_too_stay():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 2, 3))
    graph = trace(net, torch.randn(1, 3, 9, 9))
    parts = indivisible(graph, partition(net, "coupled", graph=graph, exclude="2"))
    assert {parts.groups.layers[i] for i in parts.groups.layer.tolist()} == {"0"}

"""A look at a small network is the median of several places in memory."""

from copy import deepcopy

import torch
from torch import nn

from ssl_prune.budget import latency_left
from ssl_prune.graph import trace


def test_small_networks_are_timed_in_several_places(monkeypatch):
    net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4)
    dense = deepcopy(net)
    shares, seen = [0.5, 0.9, 0.4, 0.6, 0.1], []

    def compare(first, second, inputs, rounds):
        seen.append((first[0].weight, second[0].weight, rounds))
        return 1.0, shares[len(seen) - 1]

    monkeypatch.setattr("ssl_prune.budget.measure.compare_latency", compare)
    assert latency_left(trace(net, x), net, dense, x, 1e-3) == 0.5
    assert len({weight.data_ptr() for pair in seen for weight in pair[:2]}) == 10
    assert sum(rounds for _, _, rounds in seen) == 200
    seen.clear()
    assert latency_left(trace(net, x), net, dense, x, 1.0) == 0.5  # a slow one once, as it is
    assert seen[0][0] is dense[0].weight
    assert [rounds for _, _, rounds in seen] == [25]

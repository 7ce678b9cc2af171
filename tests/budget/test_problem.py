"""Between a stated size and a choice: what stays of each layer in any case."""

import math

import pytest
import torch
from torch import nn

from ssl_prune.budget import Limits, make_problem, problem
from ssl_prune.graph import trace
from ssl_prune.groups import partition

X = torch.randn(2, 20)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 100), nn.ReLU(), nn.Linear(100, 35), nn.ReLU(), nn.Linear(35, 3))


def least(macs, **options):
    """How many channels of each of the two inner layers stay at least."""
    net = network()
    graph = trace(net, X[:1])
    return make_problem(
        graph, net, partition(net, "coupled", graph=graph), Limits(macs), **options
    ).controller.rules.least.tolist()


def share(first, second):
    return (20 * first + first * second + second * 3) / (20 * 100 + 100 * 35 + 35 * 3)


TENTH = [math.ceil(0.1 * 100), math.ceil(0.1 * 35)]


@pytest.mark.parametrize("macs", [0.5, 2 * share(*TENTH) + 1e-6])
def test_a_tenth_stays_where_there_is_room(macs):
    assert least(macs) == TENTH


@pytest.mark.parametrize("macs", [2 * share(*TENTH) - 1e-6, share(1, 1) + 1e-6])
def test_one_channel_stays_where_the_size_needs_more_to_go(macs):
    assert least(macs) == [1, 1]


def test_times_may_need_all_but_one_channel(monkeypatch):
    monkeypatch.setattr(problem, "latency_left", lambda *args: 0.1)  # of the smallest network
    net = network()
    graph = trace(net, X)
    limits = Limits(latency=0.5)
    least = make_problem(graph, net, partition(net, "coupled", graph=graph), limits, inputs=X).controller.rules.least
    assert least.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(params=10**6), "Budget: 1,000,000 parameters is met already: the network is at 5,743 parameters"),
        (Limits(macs=20), "Budget: 20 multiply-accumulates cannot be reached: .* is at 24 multiply-accumulates"),
        (Limits(latency_ms=50), "Budget: 50 ms is met already: the network is at 40 ms"),
        (Limits(latency_ms=2), "Budget: 2 ms cannot be reached: .* is at 4 ms"),
        (
            Limits(latency=0.05, latency_ms=20),
            "Budget: 5.00% of the dense latency cannot be .* is at 10.00% of the dense",
        ),
    ],
)
def test_a_size_is_spoken_of_in_its_own_unit(monkeypatch, limits, words):
    monkeypatch.setattr(problem, "latency_left", lambda *args: 0.1)
    monkeypatch.setattr("ssl_prune.sizes.latency_model.latency", lambda *args, **kwargs: 0.04)
    net = network()
    graph = trace(net, X[:1])
    with pytest.raises(ValueError, match=words):
        make_problem(graph, net, partition(net, "coupled", graph=graph), limits, inputs=X[:1])


def test_a_floor_that_is_stated_is_kept_or_refused():
    assert least(0.5, min_keep_ratio=0.0) == [1, 1]
    assert least(0.5, min_keep_ratio=0.25) == [25, 9]
    with pytest.raises(ValueError, match=r"cannot be reached: .*min_keep_ratio=0.25, .* at 13.42% of the dense macs"):
        least(0.05, min_keep_ratio=0.25)
    assert share(25, 9) == pytest.approx(0.1342, abs=5e-5)


def test_what_one_channel_a_layer_cannot_reach_is_refused_with_the_smallest_size():
    with pytest.raises(ValueError, match=r"cannot be reached.*min_keep_ratio=0.0") as refusal:
        least(share(1, 1) / 2)
    assert f"{100 * share(1, 1):.1f}" in str(refusal.value)

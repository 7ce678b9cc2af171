"""From what is dead to what is cut: what may go, what is kept with it, and which positions stay."""

import pytest
import torch
from torch import nn

from ssl_prune.graph import trace
from ssl_prune.slimming.analysis.liveness import liveness
from ssl_prune.slimming.plan.plan import Fold
from ssl_prune.slimming.plan.planner import folded, kept_positions, make_plan, places, removable
from ssl_prune.slimming.subject import Subject


def chain(dead=(0, 3), bias=0.0, padding=0, act=nn.ReLU):
    """Two convolutions with some of the six channels between them at zero, or at a constant."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 1), act(), nn.Conv2d(6, 2, 3, padding=padding), nn.Flatten())
    with torch.no_grad():
        net[0].weight[list(dead)] = 0
        net[0].bias[list(dead)] = bias * torch.arange(1.0, len(dead) + 1)
    return live_of(net, torch.randn(2, 3, 5, 5))


def live_of(net, x):
    net.eval()
    return liveness(Subject(trace(net, x), net, x))


def units(live, name="0.weight", axis=0):
    return next(a.units for a in live.subject.graph.axes if (a.name, a.axis) == (name, axis))


def test_what_is_dead_goes_and_all_else_stays():
    live = chain()
    dead = removable(live, branches=True)
    assert dead[units(live)].nonzero().flatten().tolist() == [0, 3]
    assert kept_positions(live.subject, dead) == {
        "0": {"weight": {0: [1, 2, 4, 5]}, "bias": {0: [1, 2, 4, 5]}},
        "2": {"weight": {1: [1, 2, 4, 5]}},
    }


def test_nothing_dead_is_no_plan():
    live = chain(dead=())
    assert not removable(live, branches=True).any()
    assert make_plan(live, removable(live, branches=True), branches=True, choose=None).modules == {}


@pytest.mark.parametrize("kept", [0, 3])
def test_what_is_kept_stays(kept):
    live = chain()
    keep = torch.zeros_like(live.alive)
    keep[units(live)[kept]] = True
    dead = removable(live, branches=True, keep=keep)
    assert dead[units(live)].nonzero().flatten().tolist() == [3 - kept]


def test_a_kept_unit_that_nobody_reads_needs_nothing_itself():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[4].weight[:, 0] = 0  # so unit 0 of the second layer is unread
        net[2].weight[1:, 2] = 0  # and unit 2 of the first is read by it alone
    live = live_of(net, torch.randn(5, 3))
    first, second = units(live), units(live, "2.weight")
    dead = removable(live, branches=True)
    assert (dead[first].tolist(), dead[second].tolist()) == ([False, False, True, False], [True, False, False, False])
    keep = torch.zeros_like(dead)
    keep[second[0]] = True
    assert torch.equal(removable(live, branches=True, keep=keep), dead & ~keep)


def test_a_layer_that_must_exist_keeps_one_position():
    live = chain(dead=range(6))
    dead = removable(live, branches=False)
    assert int((~dead[units(live)]).sum()) == 1


def test_constants_go_into_a_bias_as_they_are():
    live = chain(bias=0.5, act=nn.Identity)
    (obstacle,) = [o for o in live.obstacles if o.reader.module == "2"]
    dead = removable(live, branches=True)
    assert folded(obstacle, live, dead) == Fold([0, 3], [0.5, 1.0])


def test_constants_under_padding_go_into_the_largest_as_shares_of_it():
    live = chain(bias=0.25, padding=1, act=nn.Identity)
    (obstacle,) = [o for o in live.obstacles if o.reader.module == "2"]
    dead = removable(live, branches=True)
    assert dead[units(live)].nonzero().flatten().tolist() == [0]
    assert folded(obstacle, live, dead) == Fold([0], [0.5], into=3)


def test_a_tensor_stands_in_all_its_places():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    found = places(net)
    assert found["0.weight"] == found["1.weight"] == ["0.weight", "1.weight"]
    assert found["0.bias"] == ["0.bias"]


@pytest.mark.parametrize("bias", [0.0, 0.5])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_plan_gives_the_same_network_and_its_widths(bias, padding):
    live = chain(bias=bias, padding=padding)
    dead = removable(live, branches=True)
    cut = make_plan(live, dead, branches=True, choose=None).apply(live.subject.model)
    assert cut[0].out_channels == cut[2].in_channels == 6 - int(dead.sum())
    x = torch.randn(3, 3, 7, 5)
    with torch.no_grad():
        if padding == 0:
            torch.testing.assert_close(cut[:3](x), live.subject.model[:3](x))
        else:
            torch.testing.assert_close(cut[:3](x), live.subject.model[:3](x), rtol=1e-4, atol=1e-5)

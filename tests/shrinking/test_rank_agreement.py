"""Processes that hold other zeros, shapes or plans are found, and the layer is named."""

import pytest
import torch
from torch import nn

from ssl_prune import SlimError
from ssl_prune.shrinking.rank_agreement import check_agreement, fingerprint


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def compare(*nets, plans=("", "")):
    prints = torch.stack([fingerprint(net, plan) for net, plan in zip(nets, plans, strict=True)])
    check_agreement(nets[0], lambda own: prints, plans[0])


def test_equal_zeros_agree_whatever_the_values():
    one, other = network(), network()
    with torch.no_grad():
        other[0].weight.mul_(2)
        for net in (one, other):
            net[0].weight[2] = 0
    compare(one, other)


@pytest.mark.parametrize("entry", [(0, 0), (4, 3), (2, 1)])
def test_one_zero_more_is_found(entry):
    one, other = network(), network()
    with torch.no_grad():
        other[2].weight.view(-1)[entry[0] * 3 % 15] = 0
        other[0].weight[entry] = 0
    with pytest.raises(SlimError, match=r"0.weight: processes \[1\] have other zeros"):
        compare(one, other)


def test_a_zero_in_another_place_is_found():
    one, other = network(), network()
    with torch.no_grad():
        one[2].bias[0] = other[2].bias[1] = 0
    with pytest.raises(SlimError, match=r"2.bias"):
        compare(one, other)


def test_another_plan_is_found():
    with pytest.raises(SlimError, match=r"the plan of the cut"):
        compare(network(), network(), plans=("a", "b"))

"""Numbers of the user's own modules that are changed with a width."""

import pytest
import torch
from torch import nn

from ssl_prune import slim
from ssl_prune.graph import trace
from ssl_prune.slimming.plan.attributes import guessed_attributes
from ssl_prune.slimming.subject import Subject


class Named(nn.Module):
    """A module that keeps the width it works on."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x):
        return x.view(len(x), -1).sigmoid()


class Side(nn.Module):
    """One value that modules of many names read."""

    NAMES = ("m", "z", "b", "y", "a", "n", "x", "c")

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 2)
        for name in self.NAMES:
            setattr(self, name, Named(6))

    def forward(self, x):
        x = self.first(x)
        return self.last(sum(getattr(self, name)(x) for name in self.NAMES))


def test_guesses_are_in_the_order_of_the_program():
    net, x = Side(), torch.randn(2, 3)
    subject = Subject(trace(net, x), net, x)
    dead = torch.zeros(subject.graph.num_units, dtype=torch.bool)
    dead[:2] = True
    assert list(guessed_attributes(subject, dead).items()) == [(name, {"width": 4}) for name in Side.NAMES]


class Checked(nn.Module):
    """A number that both of its layer's widths equal, one of which changes; the code only compares it."""

    def __init__(self, message):
        super().__init__()
        self.channels, self.conv, self.message = 8, nn.Conv2d(8, 8, 3, 2, 1), message

    def forward(self, x):
        if self.message:
            assert x.shape[1] == self.channels, "other channels"
        else:
            assert x.shape[1] == self.channels
        return self.conv(x)


@pytest.mark.parametrize("message", [False, True])
def test_a_number_that_two_widths_equal_follows_the_one_that_changes(message):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Checked(message), nn.ReLU(), nn.Conv2d(8, 2, 1))
    with torch.no_grad():
        net[0].weight[:4] = 0
        net[0].bias[:4] = 0
    slimmer = slim(net, torch.randn(1, 3, 9, 9)).model
    assert (slimmer[0].out_channels, slimmer[2].channels) == (4, 4)

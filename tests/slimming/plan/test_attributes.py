"""Numbers of the user's own modules that are changed with a width."""

import torch
from torch import nn

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

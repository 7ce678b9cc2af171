"""Repair of cuts that do not pass: what remains holds, is as small as the code allows, and nothing else is kept."""

import sys

import pytest
import torch
from torch import nn

from ssl_prune.errors import SlimError
from ssl_prune.graph import trace
from ssl_prune.slimming.analysis.liveness import liveness
from ssl_prune.slimming.proof import candidate
from ssl_prune.slimming.proof.candidate import Attempt
from ssl_prune.slimming.proof.repair import repair
from ssl_prune.slimming.subject import Subject


class Layers(nn.Module):
    """Two layers, with the first `dead` of some hidden units at zero."""

    def __init__(self, dead=3, width=6):
        super().__init__()
        self.up, self.down = nn.Linear(3, width), nn.Linear(width, 3)
        with torch.no_grad():
            self.up.weight[:dead] = 0
            self.up.bias[:dead] = 0

    def inside(self, y):
        return y

    def forward(self, x):
        return self.down(self.inside(torch.relu(self.up(x))))


class Counting(Layers):
    """Code that divides by its width goes wrong with any cut."""

    def inside(self, y):
        return y / y.shape[1]


class Fragile(Layers):
    """Code that takes no fewer than `least`."""

    def __init__(self, dead=3, width=6, least=4):
        super().__init__(dead, width)
        self.least = least

    def inside(self, y):
        if y.shape[1] < self.least:
            raise ValueError("too narrow")
        return y


class Hidden(nn.Module):
    """What goes wrong inside is too small to be seen in the outputs."""

    def __init__(self):
        super().__init__()
        self.small = Counting()

    def forward(self, x):
        return x + 1e-9 * self.small(x)


class Random(Layers):
    def inside(self, y):
        return y * torch.rand(())


def repaired(net, columns=None):
    """What goes after a repair of the first cut, by the module whose rows go."""
    x = torch.randn(5, 3)
    subject = Subject(trace(net, x), net, x)
    attempt = Attempt(liveness(subject), 1e-4, columns)
    wanted = attempt.without(None)
    whole = attempt(wanted)
    assert not whole.proof.holds
    dead, outcome = repair(attempt, whole)
    assert outcome.proof.holds
    assert not bool((dead & ~wanted).any())
    with torch.no_grad():
        other = torch.randn(7, 3)
        torch.testing.assert_close(outcome.model(other), net(other), rtol=1e-4, atol=1e-5)
    axes = [a for a in subject.graph.axes if a.name.endswith("up.weight") and a.axis == 0]
    return {a.name.removesuffix(".weight"): int(dead[a.units[a.units >= 0]].sum()) for a in axes}


def test_as_many_go_as_the_code_takes():
    assert repaired(Fragile(dead=5)) == {"up": 2}


def test_forms_are_timed_when_it_is_known_what_goes(monkeypatch):
    timed = []
    monkeypatch.setattr(candidate, "fastest", lambda *args: timed.append(1) or {})
    assert repaired(Fragile(dead=5), "measured") == {"up": 2}
    assert len(timed) == 2  # of the cut that did not hold, and of the one that does


def test_only_what_the_wrong_code_handles_is_kept():
    net = nn.Sequential(Layers(), Counting(), Layers(), Counting())
    assert repaired(net) == {"0.up": 3, "1.up": 0, "2.up": 3, "3.up": 0}


def test_a_difference_that_outputs_hide_is_not_won_back():
    assert repaired(nn.Sequential(Layers(), Hidden())) == {"0.up": 3, "1.small.up": 0}


def test_layers_of_one_name_are_won_back_each_as_far_as_it_goes():
    net = nn.Sequential(*(Fragile(dead) for dead in (2, 5, 1, 4)))
    assert repaired(net) == {"0.up": 2, "1.up": 2, "2.up": 1, "3.up": 2}


def test_patience_is_for_failures_in_a_row(monkeypatch):
    """Four go, three more fail, one goes, two fail, one goes: never two failures in a row."""
    monkeypatch.setattr(sys.modules["ssl_prune.slimming.proof.repair"], "PATIENCE", 2)
    assert repaired(Fragile(dead=7, width=8, least=2)) == {"up": 6}


def test_a_random_forward_is_named():
    torch.manual_seed(0)
    net, x = Random(), torch.randn(5, 3)
    subject = Subject(trace(net, x), net, x)
    attempt = Attempt(liveness(subject), 1e-4, None)
    with pytest.raises(SlimError, match=r"even the unchanged network does not pass the proof: .*random"):
        repair(attempt, attempt(attempt.without(None)))

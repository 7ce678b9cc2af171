"""How much an inner value may differ: ten times what outputs may, and never less than the rounding of the numbers."""

import pytest
import torch
from torch import nn

from ssl_prune.graph import trace
from ssl_prune.slimming.analysis.liveness import liveness
from ssl_prune.slimming.proof import candidate
from ssl_prune.slimming.proof.candidate import Attempt
from ssl_prune.slimming.subject import Subject


def test_forms_are_timed_once_for_each_cut(monkeypatch):
    net, x, times = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(5, 3), []
    with torch.no_grad():
        net[0].weight[:2], net[0].bias[:2] = 0, 0
    monkeypatch.setattr(candidate, "fastest", lambda *args: times.append(1) or {})
    attempt = Attempt(liveness(Subject(trace(net, x), net, x)), 1e-4, "measured")
    dead = attempt.without(None)
    assert attempt(dead).plan == attempt.plan(dead)
    assert next(attempt.simpler()) is attempt
    assert len(times) == 1
    attempt.plan(torch.zeros_like(dead))
    assert len(times) == 2


@pytest.mark.parametrize(
    ("tolerance", "error", "found"), [(0.0, 1e-6, False), (0.0, 1e-3, True), (1e-2, 5e-2, False), (1e-2, 0.2, True)]
)
def test_inner_values_have_a_tolerance_of_their_own(tolerance, error, found):
    net, x = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(5, 3)
    with torch.no_grad():
        net[0].weight[:2] = 0
        net[0].bias[:2] = 0
    attempt = Attempt(liveness(Subject(trace(net, x), net, x)), tolerance, None)
    dead = attempt.without(None)
    plan = attempt.plan(dead)
    cut = plan.apply(net)
    with torch.no_grad():
        cut[0].weight.mul_(1 + error)
        cut[0].bias.mul_(1 + error)
    assert (attempt.look_inside(dead, plan, cut) is not None) == found

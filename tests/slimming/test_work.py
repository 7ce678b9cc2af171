"""What limits a search is counted in work, so that no load of the machine changes a cut."""

import itertools
import time

import pytest
import torch
from torch import nn

from ssl_prune import slim
from ssl_prune.graph.export.macs import LARGE
from ssl_prune.graph.export.program import export
from ssl_prune.graph.rules import has_rule
from ssl_prune.slimming.proof import repair
from ssl_prune.slimming.proof.outputs import Expected
from ssl_prune.slimming.work import Effort, is_large, work

CLOCKS = ("time", "perf_counter", "monotonic", "thread_time", "process_time")
JUMPS = {"an hour at each look": (3600.0,), "now and then a day, forward or back": (0.0, 86400.0, 0.0, -86400.0)}
X = torch.randn(2, 3)


def jump(patch, steps):
    """All clocks of `time` jump each time that they are read."""
    now = itertools.accumulate(itertools.cycle(steps), initial=1e9)
    for name in CLOCKS:
        patch.setattr(time, name, lambda: next(now))
        patch.setattr(time, f"{name}_ns", lambda: int(1e9 * next(now)))


class Fragile(nn.Module):
    """Six of eight channels are zero; the code takes no fewer than five."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 3)
        with torch.no_grad():
            self.a.weight[:6] = 0
            self.a.bias[:6] = 0

    def forward(self, x):
        y = self.a(x)
        if y.shape[1] < 5:
            raise ValueError("too narrow")
        return self.b(y)


def cut(net):
    result = slim(net, X)
    return result.plan.to_json(), result.report.removed, result.report.kept, result.report.max_error


# Shares of the work that a search may take: all of it, what a few attempts take, and less than one takes.
@pytest.mark.parametrize(("share", "removed"), [(1.0, 3), (0.01, None), (0.0, 0)])
def test_no_load_of_the_machine_changes_a_cut(share, removed, monkeypatch):
    for limit in ("SEARCH", "WIN_BACK"):
        monkeypatch.setattr(repair, limit, share * getattr(repair, limit))
    net = Fragile()
    expected = cut(net)
    assert removed is None or sum(expected[1].values()) == removed
    for steps in JUMPS.values():
        with monkeypatch.context() as patch:
            jump(patch, steps)
            assert cut(net) == expected


@pytest.mark.parametrize("steps", JUMPS.values(), ids=JUMPS)
def test_no_load_of_the_machine_chooses_the_trials(steps, monkeypatch):
    net = Fragile()
    expected = [what for what, _, _ in Expected(net, X)]
    jump(monkeypatch, steps)
    assert [what for what, _, _ in Expected(net, X)] == expected
    assert "fresh input 2" in expected


def test_a_network_is_large_by_its_products_by_its_operators_or_by_what_it_writes():
    class Repeated(nn.Module):
        def __init__(self, times):
            super().__init__()
            self.times = times

        def forward(self, x):
            for _ in range(self.times):
                x = torch.relu(x)
            return x

    def program(net, *shape):
        return export(net, torch.empty(shape).fill_(0.5), has_rule)

    assert work(program(nn.Linear(100, 100), 1000, 100)) > 1e7
    assert work(program(Repeated(10), 1)) == pytest.approx(10 * work(program(Repeated(1), 1)))
    assert work(program(Repeated(1), 1000, 1000)) > 10 * work(program(Repeated(1), 1))
    assert not is_large(program(Repeated(10), 10))
    assert is_large(program(nn.Linear(2000, 2000), int(LARGE / 2000**2) + 1, 2000))


def test_effort_grows_with_every_run_and_every_look():
    program = export(nn.Linear(3, 5), X, has_rule)
    effort = Effort(program)
    effort.cut(0)
    planned = effort.spent
    effort.cut(3)
    assert effort.spent == pytest.approx(2 * planned + 3 * work(program))
    effort.look()
    assert effort.spent > 3 * planned > 0

import time

import pytest
import torch
from torch import nn

from ssl_prune.latency import compare_latency, latency


class Sleeps(nn.Module):
    def __init__(self, log, name, seconds):
        super().__init__()
        self.log, self.name, self.seconds = log, name, list(seconds)

    def forward(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.log.append(self.name)
        time.sleep(self.seconds.pop(0))
        return x


def test_median_without_the_warmup():
    net = Sleeps([], "a", [0.2, 0.001, 0.001, 0.1])
    assert 0.001 <= latency(net, torch.zeros(1), rounds=3, warmup=1) < 0.05
    assert net.seconds == []
    assert net.training


def test_two_networks_run_in_turns():
    log = []
    first, second = Sleeps(log, "a", [0.02] * 4), Sleeps(log, "b", [0.001] * 4)
    slow, fast = compare_latency(first, second, torch.zeros(1), rounds=3, warmup=1)
    assert log == list("abbaabba")
    assert slow > fast


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds is 0"):
        latency(nn.Identity(), torch.zeros(1), rounds=0)

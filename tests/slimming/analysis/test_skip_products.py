"""Products that vary are not computed; see `slimming/test_patterns` for what is found all the same."""

import pytest
import torch
from torch import nn

from ssl_prune import slim
from ssl_prune.graph import trace
from ssl_prune.graph.export.interpreter import Execution
from ssl_prune.slimming.analysis import constants
from ssl_prune.slimming.analysis.liveness import liveness
from ssl_prune.slimming.subject import Subject


@pytest.fixture(autouse=True)
def _networks_count_as_large(monkeypatch):
    monkeypatch.setattr(constants, "LARGE", -1)


def test_products_that_vary_are_not_computed(monkeypatch):
    run: list[str] = []
    original = Execution.call_function
    monkeypatch.setattr(
        Execution, "call_function", lambda self, target, *rest: run.append(str(target)) or original(self, target, *rest)
    )
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        net[0].weight[0], net[0].bias[0] = 0, 0.5
    x = torch.randn(1, 3, 5, 5)
    live = liveness(Subject(trace(net, x), net, x))
    assert run
    assert not any("conv" in name or "linear" in name for name in run)
    (second,) = [o for o in live.obstacles if o.reader.module == "2"]
    assert second.seen.constant.tolist() == [0.5, 0, 0, 0]


class Inverse(nn.Module):
    """An operator that does not take zeros."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.square = nn.Linear(4, 9)

    def forward(self, x):
        matrix = self.square(x).view(-1, 3, 3) + 0.01 * x[:, :1, None]
        return self.last(self.first(x).relu()), torch.linalg.inv(matrix)


def test_an_operator_that_does_not_take_zeros_is_given_the_numbers():
    torch.manual_seed(0)
    net, x = Inverse().eval(), torch.randn(2, 4)
    with torch.no_grad():
        net.first.weight[:3], net.first.bias[:3] = 0, 0
    result = slim(net, x)
    assert result.model.first.out_features == 3
    for got, wanted in zip(result.model(x), net(x), strict=True):
        torch.testing.assert_close(got, wanted)

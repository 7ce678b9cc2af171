"""Constant propagation: numbers and taint, against hand-made networks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_prune.graph import faults, trace
from ssl_prune.slimming.analysis import constants
from ssl_prune.slimming.analysis.liveness import liveness
from ssl_prune.slimming.subject import Subject


def seen(net, x, module):
    """What the reader `module` finds: (varies, uniform, constant)."""
    net = net.double().eval()
    x = x.double()
    live = liveness(Subject(trace(net, x), net, x))
    (obstacle,) = [o for o in live.obstacles if o.reader.module == module]
    return obstacle.seen


def dead_filters(layer, values):
    with torch.no_grad():
        layer.weight[: len(values)] = 0
        layer.bias[: len(values)] = torch.tensor(values, dtype=layer.bias.dtype)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (nn.ReLU(), [0.0, 2.0]),
        (nn.SiLU(), [F.silu(torch.tensor(-0.7, dtype=torch.float64)).item(), 1.7615941559557649]),
        (nn.LeakyReLU(0.5), [-0.35, 2.0]),
        (nn.Identity(), [-0.7, 2.0]),
    ],
)
def test_constants_through_activations(activation, expected):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), activation, nn.Conv2d(4, 1, 1)).double()
    dead_filters(net[0], [-0.7, 2.0])
    found = seen(net, torch.randn(2, 3, 5, 5), "2")
    assert found.varies.tolist() == [False, False, True, True]
    assert found.uniform.tolist()[:2] == [True, True]
    torch.testing.assert_close(found.constant[:2], torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_constants_through_batch_norm_and_a_zero_scale():
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4, eps=0), nn.Conv2d(4, 1, 1)).double()
    with torch.no_grad():
        net[0].weight[0] = 0
        net[1].running_mean.copy_(torch.tensor([3.0, 0, 0, 0]))
        net[1].running_var.fill_(4)
        net[1].weight.copy_(torch.tensor([2.0, 0.0, 1, 1]))
        net[1].bias.copy_(torch.tensor([1.0, 0.25, 0, 0]))
    found = seen(net, torch.randn(2, 3, 5, 5), "2")
    assert found.varies.tolist() == [False, False, True, True]
    assert found.constant[:2].tolist() == [-2.0, 0.25]  # (0 - 3) / 2 * 2 + 1, and the shift alone


def test_a_constant_under_zero_padding_depends_on_position():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 1, 1)).double()
    dead_filters(net[0], [1.0, 1.0])
    found = seen(net, torch.randn(2, 3, 5, 5), "2")
    assert found.varies.tolist() == [False, False]
    assert found.uniform.tolist() == [False, False]


def test_explicit_padding_is_seen_too():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ZeroPad2d(1), nn.Conv2d(2, 1, 3)).double()
    dead_filters(net[0], [1.0, 0.0])
    found = seen(net, torch.randn(2, 3, 5, 5), "2")
    assert found.varies.tolist() == [False, False]
    assert found.uniform.tolist() == [False, True]


def test_reflected_constants_are_still_constants():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReflectionPad2d(1), nn.Conv2d(2, 1, 3)).double()
    dead_filters(net[0], [1.5])
    found = seen(net, torch.randn(2, 3, 5, 5), "2")
    assert found.varies.tolist() == [False, True]
    assert (found.uniform[0].item(), found.constant[0].item()) == (True, 1.5)


def test_taint_follows_single_connections():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]))
        second.weight.copy_(torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 1e-30, 0]]))
    found = seen(nn.Sequential(first, second, nn.Linear(3, 1)), torch.randn(2, 3), "2")
    assert found.varies.tolist() == [False, True, True]


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.g, self.o = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 1, 1)

    def forward(self, x):
        return self.o(torch.relu(self.a(x)) * torch.sigmoid(self.g(x)))


def test_a_proven_zero_stays_zero_under_a_gate_but_a_constant_does_not():
    net = Gate().double()
    dead_filters(net.a, [-1.0, 1.0])
    found = seen(net, torch.randn(2, 3, 4, 4), "o")
    assert found.varies.tolist() == [False, True, True]
    assert found.constant[0].item() == 0.0


def test_pooling_and_flatten():
    net = nn.Sequential(
        nn.Conv2d(3, 2, 1), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Upsample(scale_factor=2), nn.Flatten(), nn.Linear(8, 1)
    )
    dead_filters(net[0], [0.5])
    found = seen(net, torch.randn(2, 3, 4, 4), "5")
    assert found.varies.tolist() == [False] * 4 + [True] * 4
    assert found.constant[:4].tolist() == [0.5] * 4


def test_padded_pooling_makes_a_constant_uneven():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AvgPool2d(3, 1, padding=1), nn.Conv2d(2, 1, 1))
    dead_filters(net[0], [0.5])
    found = seen(net, torch.randn(2, 3, 4, 4), "2")
    assert (found.varies[0].item(), found.uniform[0].item()) == (False, False)


class Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(3, 2), nn.Linear(2, 1)

    def forward(self, x):
        return self.o(self.a(x) + torch.rand_like(x[:, :2]))


def test_random_numbers_count_as_varying():
    net = Noise()
    dead_filters(net.a, [0.0, 0.0])
    assert seen(net, torch.randn(2, 3), "o").varies.tolist() == [True, True]


class Axes(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(5, 2, 1), nn.Linear(7, 2)

    def forward(self, x):
        return self.a(x).sum((1, 2)) + self.b(x).sum((1, 2))


def test_one_value_read_along_two_axes():
    net, x = Axes(), torch.randn(2, 5, 7)
    assert seen(net, x, "a").varies.shape == (5,)
    assert seen(net, x, "b").varies.shape == (7,)


def test_an_uneven_constant_is_not_pooled_into_a_number():
    # Its mean depends on how much of the image is border, hence on the size of the image.
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 1, 1)
    )
    dead_filters(net[0], [0.5, 0.0])
    found = seen(net, torch.randn(2, 3, 6, 6), "3")
    assert found.varies.tolist() == [True, False, True, True]


def test_nor_where_everything_is_constant():
    net = nn.Sequential(
        nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 3, padding=1, groups=2), nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 1, 1)
    )
    dead_filters(net[0], [0.5, 0.0])
    found = seen(net, torch.randn(2, 3, 6, 6), "3")
    assert found.varies.tolist() == [True, False]


@pytest.fixture
def picky(monkeypatch):
    """Runs of an operator that raises at what it is given first, of a network whose rule fails the first time."""
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2)), torch.randn(2, 3)
    runs, rule = [], constants.varying

    def step(self, target, args, kwargs):
        if "sigmoid" in str(target):
            runs.append(self._quick)
            if len(runs) == 1:
                raise ValueError("not these numbers")
        return target(*args, **kwargs)

    def varying(node, *args):
        if not runs:
            raise KeyError("only at first")
        return rule(node, *args)

    monkeypatch.setattr(constants.Execution, "call_function", step)
    monkeypatch.setattr(constants, "varying", varying)
    monkeypatch.setattr(constants, "skipped", lambda *_: None)
    monkeypatch.setattr(faults, "RAISE", False)
    return Subject(trace(net, x), net, x), runs


def test_an_operator_that_does_not_take_noise_is_given_the_numbers(picky, monkeypatch):
    subject, runs = picky
    monkeypatch.setattr(constants, "LARGE", 0)
    assert not constants.ValuePass(subject, []).failed  # what failed in the first run did not in the second
    assert runs == [True, False]


def test_an_operator_that_fails_on_the_numbers_is_run_once(picky):
    subject, runs = picky
    with pytest.raises(ValueError, match="not these numbers"):
        constants.ValuePass(subject, [])
    assert runs == [False]


class Chosen(nn.Module):
    """One row of a table, added to every channel."""

    def __init__(self):
        super().__init__()
        self.a, self.table, self.b = nn.Linear(3, 4), nn.Embedding(5, 4), nn.Linear(4, 2)
        self.register_buffer("row", torch.tensor(2))

    def forward(self, x):
        return self.b(self.a(x) + self.table(self.row))


def test_one_row_of_a_table():
    net = Chosen()
    dead_filters(net.a, [0.5])
    with torch.no_grad():
        net.table.weight[:, 0] = 0.25
    found = seen(net, torch.randn(2, 3), "b")
    assert found.varies.tolist() == [False, True, True, True]
    assert found.constant[0] == 0.75

"""Practical widths: as few channels kept as possible, every width good, and the outputs those of the sparse network."""

import functools
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ssl_prune import slim
from ssl_prune.graph import trace
from ssl_prune.models import ResNet20
from ssl_prune.slimming.analysis.liveness import liveness
from ssl_prune.slimming.plan import rounding as module
from ssl_prune.slimming.plan.planner import removable
from ssl_prune.slimming.plan.rounding_search import fewest
from ssl_prune.slimming.subject import Subject


def chain(dead1=(), dead2=()):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 20, 3), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 30, 3, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(120, 5),
    )  # fmt: skip
    net = net.double().eval()
    with torch.no_grad():
        net[1].bias.normal_()
        for unit in dead1:
            net[0].weight[unit], net[0].bias[unit], net[1].weight[unit] = 0, 0, 0
        net[3].weight[list(dead2)] = 0
    return net


def image():
    return torch.randn(2, 3, 6, 6, dtype=torch.float64)


@functools.cache
def graph():
    """One for all: it is of the structure, not of the weights."""
    return trace(chain(), image())


def cut(net, **arguments):
    return slim(net, image(), graph=graph(), **arguments)


def same(net, result):
    fresh = image()
    torch.testing.assert_close(result.model(fresh), net(fresh), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("round_to", "first", "second"),
    [(1, 13, 9), (2, 14, 10), (4, 16, 12), (8, 16, 16), (16, 16, 16), (32, 20, 30), (1000, 20, 30)],
)
def test_widths_are_multiples_or_the_dense_ones(round_to, first, second):
    net = chain(range(7), range(5, 26))
    result = cut(net, round_to=round_to)
    assert (result.model[0].out_channels, result.model[3].in_channels) == (first, first)
    assert (result.model[3].out_channels, result.model[6].in_features) == (second, 4 * second)
    same(net, result)


def test_the_report_says_how_many_and_why():
    net = chain(range(7), range(5, 26))
    report = cut(net, round_to=8).report
    kept = {(k.layer, k.reason): k.count for k in report.kept}
    assert kept == {
        ("0", "kept for a width of 16, a multiple of 8"): 3,
        ("3", "kept for a width of 16, a multiple of 8"): 7,
    }
    assert report.removed == {"0": 4, "3": 14}
    whole = cut(net, round_to=32).report
    assert {k.reason for k in whole.kept} == {
        "kept for the whole width of 20, below the next multiple of 32",
        "kept for the whole width of 30, below the next multiple of 32",
    }
    assert "kept for a width of 16" in str(report)
    assert cut(net).report.kept == ()


def test_a_kept_channel_that_carries_a_constant_is_right():
    """It is there again, with its value, where the plain cut folds it."""
    net = chain(range(7))
    with torch.no_grad():
        net[1].bias[:7] = torch.arange(1, 8)
    plain, rounded = cut(net), cut(net, round_to=8)
    assert plain.model[3].in_channels == 13
    assert rounded.model[3].in_channels == 16
    same(net, plain)
    same(net, rounded)


def test_what_a_kept_channel_needs_is_kept_with_it():
    """It is zero because of a constant that padding keeps from being folded: without that it would not be zero."""
    net = nn.Sequential(nn.Conv2d(3, 9, 1), nn.ReLU(), nn.Conv2d(9, 20, 3, padding=1), nn.ReLU(), nn.Conv2d(20, 4, 1))
    net = net.double().eval()
    with torch.no_grad():
        net[0].weight[0], net[0].bias[0] = 0, 1
        net[2].weight[:7], net[2].bias[:7] = 0, 1
        net[2].weight[:7, 0] = -5
        net[2].weight[7:, 0] = 0
    plain, result = slim(net, image()), slim(net, image(), round_to=8)
    assert (plain.model[0].out_channels, plain.model[2].out_channels) == (8, 13)
    assert (result.model[0].out_channels, result.model[2].out_channels) == (9, 16)
    assert result.report.refused is None
    assert "a channel kept for its layer's width reads it" in {k.reason for k in result.report.kept}
    same(net, result)


class Joined(nn.Module):
    """Units on several axes: an addition ties two layers, a concatenation makes an axis of two kinds."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 24, 1)
        self.c, self.d = nn.Conv2d(16, 16, 1, groups=16), nn.Conv2d(40, 12, 1)
        self.e, self.f = nn.Conv2d(16, 12, 1), nn.Conv2d(24, 4, 1)
        self.g = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        a, b = torch.relu(self.a(x)), torch.relu(self.b(x))
        a = a + self.c(a)
        joined = torch.cat([a, b], 1)
        return self.g(torch.relu(self.d(joined) + self.e(a))), self.f(b)


@pytest.mark.parametrize(("round_to", "seed"), [(3, 0), (3, 1), (8, 2)])
def test_units_on_several_axes(round_to, seed):
    torch.manual_seed(seed)
    net = Joined().double().eval()
    with torch.no_grad():
        for layers in ((net.a, net.c), (net.b,), (net.d, net.e)):
            chosen = torch.rand(layers[0].out_channels) < 0.6
            for layer in layers:
                layer.weight[chosen], layer.bias[chosen] = 0, 0
    plain, result = slim(net, image()), slim(net, image(), round_to=round_to)
    for name, layer in result.model.named_modules():
        if isinstance(layer, nn.Conv2d):
            dense = net.get_submodule(name)
            assert layer.out_channels % round_to == 0 or layer.out_channels == dense.out_channels
            assert layer.in_channels % round_to == 0 or layer.in_channels == dense.in_channels
            assert layer.out_channels >= plain.model.get_submodule(name).out_channels
    fresh = image()
    for got, expected in zip(result.model(fresh), net(fresh), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_a_residual_network_with_a_branch_that_goes():
    torch.manual_seed(0)
    net = ResNet20(widths=(6, 8, 12)).eval()
    with torch.no_grad():
        for name, layer in net.named_modules():
            if isinstance(layer, nn.BatchNorm2d) and name.endswith("1"):
                layer.weight[:3], layer.bias[:3] = 0, 0
        blocks = [b for b in net.modules() if type(b).__name__.endswith("Block")]
        last = [m for m in blocks[1].modules() if isinstance(m, nn.BatchNorm2d)][-1]
        last.weight.zero_()
        last.bias.zero_()
    example = torch.randn(1, 3, 16, 16)
    plain, result = slim(net, example), slim(net, example, round_to=4)
    assert plain.report.removed
    fresh = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(result.model.eval()(fresh), net(fresh), rtol=1e-4, atol=1e-5)
    before = dict(net.named_modules())
    convolutions = {n: m for n, m in result.model.named_modules() if isinstance(m, nn.Conv2d)}
    assert len(convolutions) == sum(isinstance(m, nn.Conv2d) for m in plain.model.modules())
    for name, layer in convolutions.items():
        assert layer.out_channels % 4 == 0 or layer.out_channels == before[name].out_channels


@settings(max_examples=150)
@given(st.data())
def test_fewest_against_brute_force(data):
    axes, kinds = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    multiple = data.draw(st.integers(1, 5))
    available = data.draw(st.lists(st.integers(0, 4), min_size=kinds, max_size=kinds))
    row = st.lists(st.integers(0, 2), min_size=kinds, max_size=kinds)
    add = data.draw(st.lists(row, min_size=axes, max_size=axes))
    widths = data.draw(st.lists(st.integers(1, 9), min_size=axes, max_size=axes))
    dense = [w + sum(a * n for a, n in zip(r, available, strict=True)) for w, r in zip(widths, add, strict=True)]

    def good(more):
        now = [w + sum(a * n for a, n in zip(r, more, strict=True)) for w, r in zip(widths, add, strict=True)]
        return all(n % multiple == 0 or n == d for n, d in zip(now, dense, strict=True))

    least = min(sum(more) for more in itertools.product(*[range(n + 1) for n in available]) if good(more))
    found = fewest(widths, dense, add, available, multiple)
    assert good(found)
    assert all(0 <= n <= a for n, a in zip(found, available, strict=True))
    assert sum(found) == least


def test_a_long_search_ends_with_an_answer(monkeypatch):
    monkeypatch.setattr("ssl_prune.slimming.plan.rounding_search._STATES", 3)
    more = fewest([1, 2, 3], [31, 32, 33], [[1, 2, 0], [1, 0, 2], [0, 1, 2]], [10, 10, 10], 7)
    now = [1 + more[0] + 2 * more[1], 2 + more[0] + 2 * more[2], 3 + more[1] + 2 * more[2]]
    assert all(n % 7 == 0 or n == d for n, d in zip(now, [31, 32, 33], strict=True))


def timed(monkeypatch, cost):
    """Let a layer's measured time be `cost(rows, columns)`."""
    seen = []

    def latencies(models, inputs, *, rounds, warmup):
        for model in models:
            model()  # what is timed must run
        seen.append([sum(cost(*args[1].shape[:2]) for _, args in model.calls) for model in models])
        return seen[-1]

    monkeypatch.setattr(module, "latencies", latencies)
    return seen


def test_a_width_that_is_measured_faster_is_kept(monkeypatch):
    timed(monkeypatch, lambda rows, columns: 10.0 * (rows % 8 != 0) + 10.0 * (columns % 8 != 0) + 1)
    net = chain(range(7), range(5, 26))
    result = cut(net, round_to="measured")
    assert (result.model[0].out_channels, result.model[3].out_channels) == (16, 16)
    same(net, result)
    (reason,) = {k.reason for k in result.report.kept if k.layer == "0"}
    assert reason.startswith("kept for a width of 16, a multiple of ")
    assert "of the time of the plain cut" in reason


def test_nothing_is_kept_for_a_gain_below_three_per_cent(monkeypatch):
    seen = timed(monkeypatch, lambda rows, columns: 1 - 0.02 * (rows % 8 == 0 and columns % 8 == 0))
    result = cut(chain(range(7), range(5, 26)), round_to="measured")
    assert seen
    assert (result.model[0].out_channels, result.model[3].out_channels) == (13, 9)
    assert result.report.kept == ()


def test_a_gain_that_does_not_come_again_is_chance(monkeypatch):
    calls = itertools.count()

    def latencies(models, *_, **__):
        return [1.0, *([0.5] if next(calls) % 2 == 0 else [1.0]) * (len(models) - 1)]

    monkeypatch.setattr(module, "latencies", latencies)
    result = cut(chain(range(7)), round_to="measured")
    assert next(calls) == 2
    assert result.model[0].out_channels == 13


def test_measured_for_real_is_exact():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=12), nn.ReLU(), nn.Conv2d(12, 8, 1, groups=2),
        nn.ReLU(), nn.ConvTranspose2d(8, 6, 2), nn.Flatten(2), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 2),
    )  # fmt: skip
    with torch.no_grad():
        for layer in net:
            for parameter in list(layer.parameters()) if layer is not net[-1] else []:
                parameter[: len(parameter) // 3] = 0
    example = torch.randn(2, 3, 6, 6)
    state = torch.get_rng_state()
    result = slim(net, example, round_to="measured")
    assert torch.equal(state, torch.get_rng_state())
    fresh = torch.randn(3, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(result.model.eval()(fresh), net.eval()(fresh), rtol=1e-4, atol=1e-5)


def test_channels_of_an_image_without_a_batch_axis_come_first(monkeypatch):
    seen = timed(monkeypatch, lambda rows, columns: 1.0)
    net = nn.Sequential(nn.Conv2d(3, 9, 3), nn.ReLU(), nn.Conv2d(9, 4, 1)).double()
    with torch.no_grad():
        net[0].weight[:2], net[0].bias[:2] = 0, 0
    assert slim(net, image()[0], round_to="measured").model[0].out_channels == 7
    assert seen


class Factors(nn.Module):
    """Two tables whose rows are multiplied: units without a layer that has a width."""

    def __init__(self):
        super().__init__()
        self.u, self.v = nn.Embedding(10, 8), nn.Embedding(12, 8)

    def forward(self, i, j):
        return (self.u(i) * self.v(j)).sum(-1)


def test_units_on_no_layer_have_no_width():
    net, ids = Factors(), torch.arange(5)
    with torch.no_grad():
        net.u.weight[:, :3], net.v.weight[:, :3] = 0, 0
    live = liveness(Subject(trace(net, (ids, ids)), net, (ids, ids)))
    dead = removable(live, branches=True)
    assert int(dead.sum()) == 3
    for round_to in (4, "measured"):
        widths = module.practical_widths(live, dead, round_to, branches=True)
        assert torch.equal(widths.dead, dead)
        assert widths.reasons == {}


@pytest.mark.parametrize("wrong", [0, -8, 8.0, True, False, "eight", None, math.inf])
def test_what_is_no_width_is_refused(wrong):
    with pytest.raises(ValueError, match="round_to: got"):
        slim(nn.Linear(2, 2), torch.randn(1, 2), round_to=wrong)


def test_with_threshold_and_columns():
    net, nearly = chain(range(7), range(5, 26)), chain(range(7), range(5, 26))
    with torch.no_grad():
        nearly[3].weight[list(range(5, 26))] = 1e-9
    result = cut(nearly, threshold=1e-6, round_to=8, columns=True)
    assert result.model[3].out_channels == 16
    same(net, result)

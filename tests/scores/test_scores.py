"""Scores against what they estimate."""

import math

import pytest
import torch
from torch import nn

from ssl_prune.groups import partition
from ssl_prune.scores import LayerwiseRank, Magnitude, Random, TaylorGate, TaylorGroup, TaylorWeight

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


class Residual(nn.Module):
    """Two normalisations write the channels of the sum."""

    def __init__(self):
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.b, self.nb = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 2, 3)

    def forward(self, x):
        return self.last(torch.relu(self.na(self.a(x)) + self.nb(self.b(x))))


def made():
    torch.manual_seed(0)
    net = Residual().double()
    with torch.no_grad():
        for norm in (net.na, net.nb):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.3)
    groups = partition(net, "coupled", example_inputs=X[:1])
    norms = [i for i, m in enumerate(groups.members) if m.name.startswith("n")]
    return net, groups, norms


def loss(net):
    return net(X).square().mean()


def bound(score):
    net, groups, norms = made()
    score.bind(groups)
    loss(net).backward()
    score.update()
    return net, groups, norms, score.values()


@pytest.mark.parametrize(("score", "shrunk"), [(TaylorGate(), "norms"), (TaylorGroup(), "all")])
def test_to_first_order_it_is_the_change_of_the_loss(score, shrunk):
    net, groups, norms, values = bound(score)
    before = loss(net).item()
    places = norms if shrunk == "norms" else range(len(groups.members))
    for g in range(groups.num_groups):
        step, changed = 1e-6, made()[0]
        changed.load_state_dict(net.state_dict())
        params = dict(changed.named_parameters())
        factor = torch.ones(groups.num_groups, dtype=torch.float64)
        factor[g] = 1 - step
        spread = groups.expand(factor)
        with torch.no_grad():
            for i in places:
                params[groups.members[i].name].mul_(spread[i])
            changed.train()
            slope = (loss(changed).item() - before) / step
        assert values[g].item() == pytest.approx(abs(slope), rel=1e-3, abs=1e-7)


def test_coupled_normalisations_are_summed_before_squaring():
    net, _, _, values = bound(TaylorGate())
    each = [p * p.grad for norm in (net.na, net.nb) for p in (norm.weight, norm.bias)]
    torch.testing.assert_close(values, sum(each).abs().detach())


def test_every_entry_for_itself_is_never_less_than_a_mean():
    net, _, _, values = bound(TaylorWeight())
    expected = sum((p * p.grad).square().flatten(1).sum(1) if p.dim() > 1 else (p * p.grad).square()
                   for m in (net.a, net.b, net.na, net.nb) for p in m.parameters())  # fmt: skip
    torch.testing.assert_close(values, expected.sqrt().detach())


def test_groups_without_a_normalisation_are_taken_over_their_rows():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(8, 3)
    groups = partition(net, "coupled", example_inputs=x)
    mixed, rows = TaylorGate(), TaylorGroup()
    mixed.bind(groups)
    rows.bind(groups)
    net(x).square().sum().backward()
    mixed.update()
    rows.update()
    bare = groups.layer == groups.layers.index("3")
    torch.testing.assert_close(mixed.values()[bare], rows.values()[bare])
    scale = (net[1].weight * net[1].weight.grad + net[1].bias * net[1].bias.grad).abs().detach()
    torch.testing.assert_close(mixed.values()[~bare], scale)


class Between(nn.Module):
    """A convolution, something with a number a channel, and what reads it."""

    def __init__(self, between):
        super().__init__()
        self.a, self.between, self.b = nn.Conv2d(3, 4, 3), between, nn.Conv2d(4, 2, 3)

    def forward(self, x):
        return self.b(self.between(self.a(x)))


class Multiplier(nn.Module):
    """One learned factor a channel, added to its input, as LayerScale has it; `kind` "swish" learns an activation."""

    def __init__(self, kind="scale"):
        super().__init__()
        self.g, self.kind = nn.Parameter(torch.linspace(0.2, 1.5, 4)), kind

    def forward(self, x):
        g = self.g.view(-1, 1, 1)
        return x * g if self.kind == "scale" else x * torch.sigmoid(g * x)


@pytest.mark.parametrize("between", ["prelu", "scale", "swish"])
def test_a_number_a_channel_that_is_no_normalisation_is_no_gate(between):
    """The channel is judged by its weights and bias; a slope would say some of it again, or nothing of it."""
    torch.manual_seed(0)
    slopes = nn.PReLU(4)
    with torch.no_grad():
        slopes.weight.uniform_(-1, 1)
    net = Between(slopes if between == "prelu" else Multiplier(between)).double()
    groups = partition(net, "coupled", example_inputs=X[:1])
    assert len(groups.members) == 3
    score = TaylorGate()
    score.bind(groups)
    loss(net).backward()
    score.update()
    expected = (net.a.weight * net.a.weight.grad).flatten(1).sum(1) + net.a.bias * net.a.bias.grad
    torch.testing.assert_close(score.values(), expected.abs().detach())


def test_a_normalisation_before_a_slope_is_the_gate():
    torch.manual_seed(0)
    net = Between(nn.Sequential(nn.GroupNorm(2, 4), nn.PReLU(4))).double()
    score, norm = TaylorGate(), net.between[0]
    score.bind(partition(net, "coupled", example_inputs=X[:1]))
    loss(net).backward()
    score.update()
    each = (norm.weight * norm.weight.grad + norm.bias * norm.bias.grad).detach()
    index = score.groups.members[0].index.flatten()  # channels that share their statistics are one group
    expected = torch.zeros(score.groups.num_groups, dtype=each.dtype).index_add_(0, index, each)
    torch.testing.assert_close(score.values(), expected.abs())


def test_the_mean_of_squares_has_no_bias_at_the_start():
    score = TaylorGroup(decay=0.9)
    net, groups, _, first = bound(score)
    score.update()
    torch.testing.assert_close(score.values(), first)  # the same value twice
    for p in net.parameters():
        p.grad.zero_()
    score.update()
    torch.testing.assert_close(score.values(), first * math.sqrt((1 - 0.9**2) * 0.9 / (1 - 0.9**3)))
    assert groups.num_groups == 4


def test_a_step_that_overflowed_is_left_out():
    score = TaylorGate()
    net, _, _, first = bound(score)
    net.na.weight.grad[0] = torch.inf
    score.update()
    assert score.values().isfinite().all()
    assert score.values()[0] > 0.9 * first[0]


@pytest.mark.parametrize("make", [TaylorGate, TaylorGroup, TaylorWeight, Magnitude, Random])
def test_a_state_goes_on_where_it_was(make):
    score = make()
    _, groups, _, values = bound(score)
    state = score.state_dict()
    for _ in range(2):  # what is loaded is not written to
        other = make()
        other.bind(groups)
        other.load_state_dict(state)
        assert torch.equal(other.values(), values)
        other.update()
    score.update()
    torch.testing.assert_close(other.values(), score.values())


def test_a_state_of_other_groups_is_refused():
    score = TaylorGate()
    bound(score)
    other = TaylorGate()
    other.bind(partition(nn.Sequential(nn.Linear(2, 3)), "neuron"))
    with pytest.raises(ValueError, match="another network or another choice"):
        other.load_state_dict(score.state_dict())


def test_magnitudes_are_norms():
    _, groups, _, values = bound(Magnitude())
    torch.testing.assert_close(values, groups.norms())
    torch.testing.assert_close(bound(Magnitude(per_entry=True))[3], values / groups.sizes.sqrt())


def test_random_scores_depend_on_the_seed_alone():
    assert torch.equal(bound(Random(3))[3], bound(Random(3))[3])
    assert not torch.equal(bound(Random(3))[3], bound(Random(4))[3])


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ValueError, match="decay must be a number in"):
        TaylorGate(decay)


def test_ranks_keep_the_order_within_a_layer_and_make_layers_alike():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2))
    with torch.no_grad():
        net[0].weight.mul_(100)  # which says nothing about how wide the layer should be
    groups = partition(net, "coupled", example_inputs=torch.zeros(1, 4))
    plain, ranks = Magnitude(), LayerwiseRank(Magnitude())
    plain.bind(groups)
    ranks.bind(groups)
    for layer in groups.layer.unique().tolist():
        here = groups.layer == layer
        count = int(here.sum())
        assert torch.equal(plain.values()[here].argsort(), ranks.values()[here].argsort())
        expected = (torch.arange(count) + 0.5) / count
        torch.testing.assert_close(ranks.values()[here].sort().values, expected)


def test_ranks_go_on_where_they_were():
    first, second = LayerwiseRank(TaylorGate()), LayerwiseRank(TaylorGate())
    _, groups, _, values = bound(first)
    second.bind(groups)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.values(), values)
    assert len(values.unique()) > 1


def test_ranks_of_no_score_are_refused():
    with pytest.raises(TypeError, match=r"such as TaylorGate\(\), got 'taylor'"):
        LayerwiseRank("taylor")

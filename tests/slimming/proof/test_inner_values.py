"""The inner proof: every value of a cut network beside what survives of the dense one."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from ssl_prune.graph import trace
from ssl_prune.graph.export.program import module_of
from ssl_prune.slimming.proof.inner_values import _compare, inner_difference
from ssl_prune.slimming.subject import Subject

DEAD = torch.tensor([False, True, False, False])


def dense(scale=1.0):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        net[2].weight[:, 1] = 0
        net[2].weight.mul_(scale)
        net[2].bias.mul_(scale)
    x = torch.randn(5, 3).double()
    return Subject(trace(net, x), net, x)


def narrowed(net, stays):
    """The first layer keeps some of its four rows, and the second what it reads of them."""
    cut = deepcopy(net)
    cut[0].weight, cut[0].bias = nn.Parameter(net[0].weight[stays]), nn.Parameter(net[0].bias[stays])
    cut[2].weight = nn.Parameter(net[2].weight[:, stays])
    return cut


def found(subject, cut, needed=None, tolerance=1e-6):
    (units,) = [a.units for a in subject.graph.axes if (a.name, a.axis) == ("0.weight", 0)]
    dead = torch.zeros(subject.graph.num_units, dtype=torch.bool)
    dead[units[DEAD]] = True
    matters = ~dead
    if needed is not None:
        matters[units] = needed
    error = inner_difference(subject, cut, dead, matters, tolerance)
    return None if error is None else (module_of(error.node), str(error))


def test_what_survives_is_the_same():
    subject = dense()
    assert found(subject, narrowed(subject.model, ~DEAD)) is None


@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_value_that_differs_is_named_where_it_differs_first(row):
    subject = dense()
    cut = narrowed(subject.model, ~DEAD)
    with torch.no_grad():
        cut[0].bias[row] += 1
    name, text = found(subject, cut)
    assert name == "0"
    assert "differs by" in text


def test_another_channel_than_the_dead_one_is_missing():
    subject = dense()
    assert found(subject, narrowed(subject.model, torch.tensor([True, True, True, False])))[0] == "0"


def test_another_number_of_channels_is_no_survivor():
    subject = dense()
    name, text = found(subject, narrowed(subject.model, torch.tensor([True, False, True, False])))
    assert (name, "a value of shape (5, 2) where (5, 3) survives" in text) == ("0", True)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_a_difference_counts_by_the_size_of_its_own_value(scale):
    subject = dense(scale)
    cut = narrowed(subject.model, ~DEAD)
    with torch.no_grad():
        cut[2].weight.mul_(1 + 1e-4)
        cut[2].bias.mul_(1 + 1e-4)
    assert found(subject, cut, tolerance=1e-3) is None
    assert found(subject, cut, tolerance=1e-5)[0] == "2"


def test_what_is_kept_for_the_shape_alone_may_hold_anything():
    subject = dense()
    cut = narrowed(subject.model, ~DEAD)
    with torch.no_grad():
        cut[0].bias[2] += 1  # row 3 of the dense layer
        cut[2].weight[:, 2] = 0
        subject.model[2].weight[:, 3] = 0
    assert found(subject, cut, needed=torch.tensor([True, False, True, False])) is None
    assert found(subject, cut)[0] == "0"


def test_nan_where_the_dense_value_is_finite_differs():
    subject = dense()
    cut = narrowed(subject.model, ~DEAD)
    with torch.no_grad():
        cut[2].bias[0] = float("nan")
    assert found(subject, cut)[0] == "2"


def test_a_program_of_other_operators_is_not_compared():
    subject = dense()
    cut = narrowed(subject.model, ~DEAD)
    cut[3] = nn.Tanh()
    assert found(subject, cut) is None


def compared(wanted, got):
    """Whether a value is taken for the same, of a network without dead units."""
    everywhere = torch.ones(1, dtype=torch.bool)
    return _compare(torch.tensor(wanted), torch.tensor(got), None, everywhere, everywhere, 1e-3) is None


@pytest.mark.parametrize("wrong", [5.0, -torch.inf, torch.nan])
def test_what_is_infinite_stays_so(wrong):
    assert compared([1.0, torch.inf, torch.nan], [1.0, torch.inf, torch.nan])
    assert not compared([1.0, torch.inf, torch.nan], [1.0, wrong, torch.nan])
    assert not compared([1.0, torch.nan], [1.0, torch.inf])


@pytest.mark.parametrize("wrong", [1 + 9j, 9 + 1j])
def test_both_parts_of_a_complex_value_count(wrong):
    assert compared([1 + 1j, 2j], [1 + 1j, 2j])
    assert not compared([1 + 1j, 2j], [wrong, 2j])

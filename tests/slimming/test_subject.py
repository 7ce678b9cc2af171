"""A network with its graph and example: listed once, run without a trace."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from ssl_prune import cost, slim
from ssl_prune.errors import GraphError
from ssl_prune.graph import trace
from ssl_prune.slimming import tracing
from ssl_prune.slimming.subject import Subject
from ssl_prune.slimming.tracing import traced


class Counting(nn.Module):
    """A forward that writes into a buffer and into its input; one layer stands under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        x.mul_(2)
        return self.norm(self.again(self.first(x))) + self.calls


class Branching(nn.Module):
    """Which layer runs depends on the input, so that only the second tracer follows."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.c(self.a(x) if x.sum() > 0 else self.b(x))


@pytest.fixture
def subject():
    net, x = Counting().eval(), torch.randn(2, 4)
    return Subject(trace(net, x.clone()), net, x)


@pytest.fixture(scope="module")
def chain():
    return trace(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), torch.zeros(2, 4))


def test_tensors_are_the_networks_own_under_all_their_names(subject):
    net = subject.model
    assert subject.tensors["first.weight"] is subject.tensors["again.weight"] is net.first.weight
    assert subject.tensors["norm.running_mean"] is net.norm.running_mean
    assert set(net.state_dict()) == set(subject.tensors)
    assert subject.tensors is subject.tensors


def test_modules_have_their_first_names(subject):
    assert subject.modules == dict(subject.model.named_modules())
    assert "again" not in subject.modules


def test_a_run_writes_into_nothing(subject):
    x, state = subject.inputs.clone(), {k: v.clone() for k, v in subject.model.state_dict().items()}
    first, second = subject.run(), subject.run()
    assert torch.equal(first, second)
    assert torch.equal(subject.inputs, x)
    assert all(torch.equal(v, state[k]) for k, v in subject.model.state_dict().items())
    assert torch.equal(subject.model(x.clone()), first)
    assert subject.cost() == cost(subject.model, x.clone())


def test_another_network_is_another_subject(subject):
    other = Counting()
    assert subject.tensors["first.weight"] is not other.first.weight
    assert replace(subject, model=other).tensors["first.weight"] is other.first.weight


def test_the_graph_says_which_tracer_followed():
    x = torch.randn(2, 4)
    assert traced(Counting(), x.clone()).graph.refusal is None
    by_autograd = traced(Branching(), x)
    assert "torch.export could not trace" in by_autograd.graph.refusal
    assert traced(Branching(), x, by_autograd.graph).graph.refusal == by_autograd.graph.refusal


def test_an_option_that_needs_a_program_is_refused_before_the_second_tracer(monkeypatch):
    monkeypatch.setattr(tracing, "by_autograd", None)
    with pytest.raises(ValueError, match=r"columns: not available .*torch\.export could not trace.*Leave it out"):
        slim(Branching(), torch.randn(2, 4), columns=True)


def two(*widths):
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))


@pytest.mark.parametrize(
    ("net", "inputs", "message"),
    [
        (two(4, 5, 2), torch.zeros(2, 4), r"0\.weight: got one of shape \(5, 4\) .* expects shape \(3, 4\)"),
        (two(4, 3), torch.zeros(2, 4), r"1\.weight: got none in this Sequential, the graph expects shape \(2, 3\)"),
        (two(4, 3, 2, 2), torch.zeros(2, 4), r"2\.weight: the graph is of a network without it"),
        (two(4, 3, 2), (torch.zeros(2, 4),) * 2, "Sequential: got 2 inputs, the graph expects 1"),
    ],
)
def test_the_graph_of_another_network_is_refused(chain, net, inputs, message):
    with pytest.raises(GraphError, match=f"{message}.*Trace the network again"):
        slim(net, inputs, graph=chain)


def test_a_graph_that_was_traced_before_is_taken(subject):
    assert traced(subject.model, subject.inputs, subject.graph).graph is subject.graph

"""What the second tracer sees of networks that export refuses: ties, ways, and what leaves the autograd graph."""

import pytest
import torch
from torch import nn

from ssl_prune.errors import GraphError
from ssl_prune.graph import by_export, trace
from ssl_prune.graph.fallback.autograd_graph import AutogradGraph
from ssl_prune.graph.fallback.control_flow import Answers, explore
from ssl_prune.graph.fallback.ties import Ties
from ssl_prune.graph.fallback.tracer import by_autograd
from ssl_prune.groups import partition


class Net(nn.Module):
    def __init__(self, function, **members):
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, *args):
        return self.function(self, *args)


def partition_of(graph):
    """Which positions of which tensors go together."""
    units = {}
    for axis in (*graph.axes, *graph.buffers):
        for place, unit in enumerate(axis.units.tolist()):
            if unit >= 0:
                units.setdefault(unit, set()).add((axis.name, axis.axis, place))
    return {frozenset(members) for members in units.values()}


def chain():
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 5, 3, groups=5), nn.PReLU(5), nn.Conv2d(5, 4, 1),
        nn.Flatten(), nn.Linear(16, 3), nn.ReLU(), nn.Linear(3, 2),
    )  # fmt: skip


def add_and_cat():
    def forward(s, x):
        y = torch.relu(s.a(x) + s.b(x))
        return s.d(torch.cat([y, s.c(x), y], 1)).mean((2, 3))

    return Net(forward, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1), c=nn.Conv2d(3, 2, 1), d=nn.Conv2d(10, 3, 1))


@pytest.mark.parametrize("build", [chain, add_and_cat])
def test_both_tracers_find_the_same_units(build):
    net, x = build(), torch.randn(1, 3, 6, 6)
    assert partition_of(by_autograd(net, x)) == partition_of(by_export(net, x))


def branching(threshold=0.0):
    return Net(
        lambda s, x: s.c(torch.relu(s.a(x) if x.sum() > threshold else s.b(x))),
        a=nn.Linear(4, 3), b=nn.Linear(4, 3), c=nn.Linear(3, 2),
    )  # fmt: skip


@pytest.mark.parametrize("threshold", [-1e30, 1e30])
def test_ways_that_the_example_does_not_take_are_tied_too(threshold):
    graph = by_autograd(branching(threshold), torch.randn(2, 4))
    expected = {
        frozenset({("a.weight", 0, i), ("a.bias", 0, i), ("b.weight", 0, i), ("b.bias", 0, i), ("c.weight", 1, i)})
        for i in range(3)
    }
    assert partition_of(graph) == expected
    assert graph.ways == 2


def test_frozen_layers_and_gradients_switched_off():
    net = branching()
    net.a.requires_grad_(False)
    net.c.requires_grad_(False)
    with torch.no_grad():
        graph = by_autograd(net, torch.randn(2, 4))
    assert graph.num_units == 3
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == [
        "a.weight",
        "a.bias",
        "c.weight",
        "c.bias",
    ]


def test_the_coupled_penalty_reaches_both_branches():
    net = branching()
    groups = partition(net, "coupled", example_inputs=torch.randn(2, 4))
    assert groups.sizes.tolist() == [10, 10, 10]


def refuses(s, x):
    if x.sum() > 1e30:
        raise ValueError("too much")
    return s.b(s.a(x))


def depends_on_nothing(s, x):
    return torch.zeros(2, 2) if x.sum() > 1e30 else s.b(s.a(x))


@pytest.mark.parametrize("forward", [refuses, depends_on_nothing])
def test_a_way_that_the_code_refuses_is_left_out(forward):
    graph = by_autograd(Net(forward, a=nn.Linear(4, 3), b=nn.Linear(3, 2)), torch.randn(2, 4))
    assert (graph.num_units, graph.ways) == (3, 1)


@pytest.mark.parametrize("example", [True, False], ids=["of the example", "of another input"])
def test_a_way_that_this_library_does_not_follow_is_not(example, monkeypatch):
    saw, net, x = Ties.saw, branching(), torch.ones(2, 4)
    other = Net(lambda s, x: s.a(x) if x.shape[0] == 2 else s.b(s.a(x)), a=nn.Linear(4, 3), b=nn.Linear(3, 2))

    def once(self, *args):
        if self._ways:
            raise KeyError("broken on purpose")
        saw(self, *args)

    monkeypatch.setattr(Ties, "saw", once)
    with pytest.raises(GraphError, match="KeyError: 'broken on purpose'"):
        by_autograd(net, x) if example else by_autograd(other, x, more=[torch.ones(3, 4)])


def test_the_first_tracer_comes_first():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    assert not isinstance(trace(net, torch.randn(1, 4)), AutogradGraph)
    graph = trace(branching(), torch.randn(1, 4))
    assert isinstance(graph, AutogradGraph)
    assert "torch.export" in graph.refusal
    with pytest.raises(GraphError, match=r"program.*torch\.export"):
        _ = graph.program
    with pytest.raises(GraphError, match="program"):
        partition(branching(), "depth", graph=graph)


def test_a_wrong_input_names_both_reasons():
    with pytest.raises(GraphError, match=r"\(2, 5\).*second tracer.*shape"):
        trace(branching(), torch.randn(2, 5))


def test_too_many_ways_are_refused():
    def forward(s, x):
        for i in range(20):  # each at a place of its own
            exec("\n" * i + f"if x[0, 0] > {i}: x = x * 1.0", {}, {"x": x})
        return s.b(s.a(x))

    with pytest.raises(GraphError, match="too many ways"):
        by_autograd(Net(forward, a=nn.Linear(4, 3), b=nn.Linear(3, 2)), torch.randn(2, 4))


@pytest.mark.parametrize(
    ("look", "reason"),
    [
        (lambda y: y.detach().amax(), "past autograd"),
        (lambda y: float(y.sum()), "past autograd"),
        (lambda y: float(y.detach().numpy().max()), "past autograd"),
        (lambda y: y.tolist()[0][0], "past autograd"),
        (lambda y: y.amax(1, keepdim=True), "Amax"),
        (lambda y: y.softmax(1).sum(1, keepdim=True), "Softmax"),
        (lambda y: y.mean(1, keepdim=True), "Mean runs over channels"),
    ],
)
def test_channels_that_something_else_looks_at_are_kept(look, reason):
    def forward(s, x):
        y = s.a(x)
        return s.c(torch.relu(s.b(y))) * look(y)

    net = Net(forward, a=nn.Linear(4, 3), b=nn.Linear(3, 3), c=nn.Linear(3, 2))
    graph = by_autograd(net, torch.randn(2, 4))
    assert {axis.name for axis in graph.axes} == {"b.weight", "b.bias", "c.weight"}
    assert any(reason in why for why in graph.kept["a"]), graph.kept


def test_answers_are_recorded_and_replayed():
    def code():
        x = torch.tensor([1.0, 2.0])
        return [bool(x.sum() > 2), x[0].item() > 5, int(x[1]), torch.equal(x, x)]

    with Answers() as natural:
        assert code() == [True, False, 2, True]
    assert [a.natural for a in natural.taken] == [True, 1.0, 2, True]
    with Answers([False, 9.0, 7]) as other:
        assert code() == [False, True, 7, True]
    assert [a.value for a in other.taken] == [False, 9.0, 7, True]


def test_every_combination_of_answers():
    def run(answers):
        with answers:
            x = torch.ones(())
            return (bool(x > 0), bool(x > 2), bool(x > 3))

    exploration = explore(run)
    assert exploration.missed is None
    assert {result for _, result in exploration.ways} == {(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)}
    assert explore(run, limit=3).missed is not None

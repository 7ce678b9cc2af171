"""The first code to go wrong: innermost, of the user's own, in the order of the run; and the units it handles."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from ssl_prune.graph import trace
from ssl_prune.graph.export.program import module_of
from ssl_prune.slimming.proof.localize import first_difference, units_at, units_in_scope
from ssl_prune.slimming.subject import Subject


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.Sequential(Block(), Block(), Block()), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.blocks(x))


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    net, x = Net(), torch.randn(5, 3)
    return Subject(trace(net, x), net, x)


def scaled(module, factor):
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(factor)


def test_nothing_differs(subject):
    assert first_difference(subject, deepcopy(subject.model), 1e-6) is None


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_first_block_to_differ_is_named(subject, number):
    cut = deepcopy(subject.model)
    for block in cut.blocks[number:]:
        scaled(block, 2)
    assert first_difference(subject, cut, 1e-3) == f"blocks.{number}"


def test_of_layers_of_pytorch_what_calls_them_is_named(subject):
    cut = deepcopy(subject.model)
    scaled(cut.head, 2)
    assert first_difference(subject, cut, 1e-3) == ""


def test_the_tolerance_is_relative(subject):
    cut = deepcopy(subject.model)
    scaled(cut.head, 1 + 1e-3)
    assert first_difference(subject, cut, 1e-2) is None
    assert first_difference(subject, cut, 1e-4) == ""


def test_nan_differs(subject):
    cut = deepcopy(subject.model)
    scaled(cut.blocks[1], float("nan"))
    assert first_difference(subject, cut, 1e9) == "blocks.1"


class Masked(nn.Module):
    """Scores of which those of later tokens are minus infinity."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.register_buffer("mask", torch.ones(5, 5).triu(1).bool())
        self.scale = scale

    def forward(self, x):
        return (self.scale * x @ x.T).masked_fill(self.mask, -torch.inf)


def test_an_infinity_in_both_is_no_difference(subject):
    net, x = nn.Sequential(Masked(), nn.Softmax(-1)), torch.randn(5, 3)
    masked = Subject(subject.graph, net, x)
    assert first_difference(masked, deepcopy(net), 1e-4) is None
    assert first_difference(masked, nn.Sequential(Masked(2.0), nn.Softmax(-1)), 1e-4) == "0"


@pytest.mark.parametrize("number", [0, 2])
def test_the_innermost_that_raises_is_named(subject, number):
    cut = deepcopy(subject.model)
    cut.blocks[number].down = nn.Linear(5, 3)
    assert first_difference(subject, cut, 1e-6) == f"blocks.{number}"


def test_what_was_cut_is_not_compared(subject):
    class Narrow(Block):
        def forward(self, x):
            return super().forward(x)[:, :2]

    cut = deepcopy(subject.model)
    narrow = Narrow()
    cut.blocks = nn.Sequential(cut.blocks[0], cut.blocks[1], narrow)
    cut.head = nn.Linear(2, 2)
    assert first_difference(subject, cut, 1e-6) == ""  # of the block's outputs nothing is said


def units_of(graph, name):
    (units,) = [a.units for a in graph.axes if (a.name, a.axis) == (f"{name}.weight", 0)]
    return set(units.tolist())


def test_units_of_a_module_are_those_that_its_code_sees(subject):
    graph = subject.graph
    for number in range(3):
        found = set(units_in_scope(graph, f"blocks.{number}").nonzero().flatten().tolist())
        assert found == units_of(graph, f"blocks.{number}.up")


def test_units_at_a_value_are_its_own_and_those_it_comes_from():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    graph = trace(net, torch.randn(2, 3))
    nodes = {module_of(n): n for n in graph.program.graph.nodes if n.op == "call_function"}
    own = {name: units_of(graph, name) for name in ("0", "1")}
    found = {name: set(units_at(graph, node).nonzero().flatten().tolist()) for name, node in nodes.items()}
    assert found == {"0": own["0"], "1": own["0"] | own["1"], "2": own["1"]}

"""Tracing leaves the network alone and says what it cannot follow."""

import copy

import pytest
import torch
from torch import nn

from ssl_prune.errors import GraphError, SlimError
from ssl_prune.graph import by_export, trace


def test_the_network_is_left_as_it_was():
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2))
    net[1].eval()
    net[0].bias.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    identities = [id(p) for p in net.parameters()]
    flags = [m.training for m in net.modules()]
    rng = torch.get_rng_state()
    trace(net, torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), rng)
    assert [m.training for m in net.modules()] == flags
    assert [id(p) for p in net.parameters()] == identities
    assert [p.requires_grad for p in net.parameters()] == [True, False, True, True, True, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else x


def test_data_dependent_control_flow_is_refused_with_a_way_out():
    with pytest.raises(GraphError, match=r"Branching.*\(2, 4\).*depends on data"):
        by_export(Branching(), torch.randn(2, 4))


def test_a_wrong_shape_is_named():
    with pytest.raises(GraphError, match=r"Sequential.*\(2, 5\)"):
        by_export(nn.Sequential(nn.Linear(4, 3)), torch.randn(2, 5))


@pytest.mark.parametrize("wrong", [None, 3, "x"])
def test_an_input_of_another_type_is_named(wrong):
    with pytest.raises(TypeError, match=type(wrong).__name__):
        trace(nn.Linear(4, 3), wrong)


def test_a_graph_error_is_a_slim_error():
    assert issubclass(GraphError, SlimError)


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x, shift, scale=1):
        return self.b(torch.relu(self.a(x))) * scale + shift


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.randn(2, 4), torch.randn(2, 2)),
        [torch.randn(2, 4), torch.randn(2, 2), 3],
        {"shift": torch.randn(2, 2), "x": torch.randn(2, 4)},
    ],
)
def test_positional_and_keyword_inputs(inputs):
    assert trace(Keywords(), inputs).num_units == 3

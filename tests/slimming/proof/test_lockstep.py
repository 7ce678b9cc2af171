"""A network beside the program of another one: every node's value, as it arises."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_prune.graph import by_export
from ssl_prune.graph.export.interpreter import Execution
from ssl_prune.slimming.proof import lockstep
from ssl_prune.slimming.proof.inner_values import inner_difference
from ssl_prune.slimming.subject import Subject
from ssl_prune.utils.inputs import leaves
from ssl_prune.utils.tensors import named_tensors


class Net(nn.Module):
    """Two layers with some code between them."""

    def __init__(self, between, width=4):
        super().__init__()
        self.between, self.a, self.b = between, nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, x):
        return self.b(self.between(self.a(x)))


def made(net, x):
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net.eval().double(), x.double()


def values(program_of, network, x):
    """Whether both are in step, and name -> (value of the program, value of the network)."""
    graph = by_export(program_of, x)
    found = {}

    def compare(node, wanted, got):
        assert node.name not in found
        found[node.name] = wanted.clone(), got.clone()

    together = lockstep.beside(Execution(graph.program, named_tensors(program_of), x), network, x, compare)
    return together, found, graph.program


IN_STEP = {
    "relu": F.relu,
    "relu in place": lambda h: F.relu(h, inplace=True).mul_(2).add_(1),
    "two parts": lambda h: torch.cat([part.tanh() for part in h.split(2, -1)], -1),
    "transposed": lambda h: (h.transpose(0, 1) * 2).transpose(0, 1),
    "norm": lambda h: F.layer_norm(h, h.shape[-1:]),
    "detached": lambda h: h.detach().sigmoid() * h,
    "a number": lambda h: h * float(torch.tensor(3.0)),
    "literal": lambda h: h + torch.tensor([1.0, 2.0, 3.0, 4.0]).to(h),
    "attention": lambda h: F.scaled_dot_product_attention(h[None], h[None], h[None])[0],
    "sorted": lambda h: h.sort(-1).values + h.max(-1, keepdim=True)[0],
}


@pytest.mark.parametrize("between", IN_STEP.values(), ids=IN_STEP)
def test_a_network_is_in_step_with_its_own_program(between):
    net, x = made(Net(between), torch.randn(5, 3))
    together, found, program = values(net, net, x)
    assert together
    for wanted, got in found.values():
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    layers = {n.name for n in program.graph.nodes if n.op == "call_function" and "linear" in str(n.target)}
    assert len(layers) == 2
    assert layers < set(found)


def test_layers_with_operators_of_several_parts():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    net = nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.Flatten(1), nn.Unflatten(1, (6, 8)), layer)
    net, x = made(net, torch.randn(2, 3, 8))
    together, found, _ = values(net, net, x)
    assert together
    assert len(found) > 15
    for wanted, got in found.values():
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def test_values_are_those_before_the_network_writes_into_them():
    net, x = made(Net(lambda h: h.mul_(3)), torch.randn(5, 3))
    _, found, _ = values(net, net, x)
    torch.testing.assert_close(found["linear"][1], F.linear(x, net.a.weight, net.a.bias))


OTHERS = {
    "another operator": torch.tanh,
    "one more": lambda h: F.relu(h) + 1,
    "one less": lambda h: h,
    "one more at the end of the part": lambda h: F.relu(h).clone(),
    "parts of other numbers": lambda h: F.relu(torch.cat([*h.split(1, -1)], -1)),
}


@pytest.mark.parametrize("between", OTHERS.values(), ids=OTHERS)
def test_other_operators_are_out_of_step(between):
    net, x = made(Net(F.relu), torch.randn(5, 3))
    other, _ = made(Net(between), x)
    assert not values(net, other, x)[0]


def test_a_part_more_is_out_of_step():
    net, x = made(Net(lambda h: sum(h.split(2, -1)).repeat(1, 2)), torch.randn(5, 3))
    other, _ = made(Net(lambda h: sum(h.split(1, -1)).repeat(1, 4)), x)
    assert not values(net, other, x)[0]


def test_the_network_and_its_parameters_are_left_as_they_were():
    net, x = made(Net(F.relu), torch.randn(5, 3))
    net.a.bias.requires_grad_(False)
    net.kept = []
    net.register_forward_hook(lambda module, inputs, output: module.kept.append(output))
    before = {name: tensor.clone() for name, tensor in named_tensors(net).items()}
    assert values(net, net, x)[0]
    assert net.kept == []
    assert [p.requires_grad for p in net.parameters()] == [True, False, True, True]
    for name, tensor in named_tensors(net).items():
        assert torch.equal(tensor, before[name])
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize(
    "between", [F.relu, lambda h: torch.cat([h[:, :2].mul_(2), h[:, 2:]], -1)], ids=["in step", "not"]
)
def test_a_difference_is_found_in_step_and_else_by_a_trace(monkeypatch, between, wrong):
    net, x = made(Net(between), torch.randn(5, 3))
    other, _ = made(Net(between), x)
    if wrong:
        with torch.no_grad():
            other.b.bias[0] += 1
    in_step = []
    beside = lockstep.beside
    monkeypatch.setattr(
        "ssl_prune.slimming.proof.inner_values.beside", lambda *args: in_step.append(beside(*args)) or in_step[-1]
    )
    subject = Subject(by_export(net, x), net, x)
    none = torch.zeros(subject.graph.num_units, dtype=torch.bool)
    error = inner_difference(subject, other, none, ~none, 1e-9)
    assert in_step == [between is F.relu]
    assert (error is not None) == wrong
    assert error is None or "linear" in str(error.node.target)


def test_an_error_of_the_comparison_is_no_error_of_the_network():
    net, x = made(Net(F.relu), torch.randn(5, 3))
    graph = by_export(net, x)

    def compare(node, wanted: Tensor, got: Tensor):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # under the tests; elsewhere the programs are compared
        lockstep.beside(Execution(graph.program, named_tensors(net), x), net, x, compare)
    assert leaves(net(x))[0].shape == (5, 2)

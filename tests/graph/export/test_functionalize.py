"""Programs whose in-place operators were renamed away compute what the network computes."""

import operator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_prune.graph import trace
from ssl_prune.graph.export.functionalize import functional
from ssl_prune.graph.export.interpreter import Execution
from ssl_prune.graph.export.program import export, module_of
from ssl_prune.graph.rules import has_rule
from ssl_prune.utils.tensors import named_tensors


class Plain(nn.Module):
    """A network made of one function of a convolution's output."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.bn, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.register_buffer("count", torch.zeros(4))
        self.function = function

    def forward(self, x):
        return self.last(self.function(self, self.bn(self.conv(x)), x))


def relu(net, y, x):
    return F.relu(y, inplace=True)


def residual(net, y, x):
    identity = y * 2
    y += identity
    return F.hardswish(y, inplace=True)


def chain(net, y, x):
    y.mul_(2).clamp_(min=-1).sub_(0.5)
    return y


def result_ignored(net, y, x):
    F.relu_(y)
    return y.sigmoid()


def used_before(net, y, x):
    before = y.mean((2, 3), keepdim=True)
    y.relu_()
    return y + before


def view_taken_before(net, y, x):
    view = y[:, :2]
    y.relu_()
    return y + torch.cat([view, view], 1)


def view_written(net, y, x):
    y[:, :2].zero_()
    return y


def base_read_after_its_view_is_written(net, y, x):
    view = y.view(y.shape[0], -1)
    view.relu_()
    return y


def view_taken_after(net, y, x):
    y.relu_()
    return y.view(y.shape[0], 2, 2, *y.shape[2:]).flip(1).reshape(y.shape)


def input_written(net, y, x):
    x.add_(1)
    return y + x[:, :1]


def buffer_written(net, y, x):
    net.count.add_(1)
    return y + net.count.view(1, -1, 1, 1)


def mixed_types(net, y, x):
    steps = torch.arange(4, dtype=torch.float64).view(1, -1, 1, 1)
    y.add_(steps)
    return y


def without_gradients(net, y, x):
    with torch.no_grad():
        scale = y.abs().amax((2, 3), keepdim=True) + 1
    return y / scale


def statistics_of_the_batch(net, y, x):
    return F.batch_norm(y, net.bn.running_mean, net.bn.running_var, training=True)


def filled_by_index(net, y, x):
    mask = torch.zeros(1, 4, 1, 1)
    mask[:, 1:3] = 1
    return y * mask


def filled_in_pieces(net, y, x):
    mask = x.new_zeros(1, 4, 5, 5)
    for channel in (0, 2):
        for rows in (slice(0, 2), slice(3, None)):
            mask[:, channel, rows, 1::2] = channel + rows.start
    return y * mask


def written_again(net, y, x):
    y[:, 0] += 1
    y[:, 0, :2].mul_(2)
    y[:, :3] = y[:, 1:]
    return y


def piece_read_after_it_is_written(net, y, x):
    piece = y[:, 1:3]
    piece.relu_()
    return torch.cat([piece, y[:, :2]], 1)


def overlapping_pieces(net, y, x):
    first, second = y[:, :3], y[:, 1:]
    first.zero_()
    return torch.cat([second, y[:, :1]], 1)


def slice_of_the_input_written(net, y, x):
    x[:, 0].add_(1)
    return y


def slice_of_a_buffer_written(net, y, x):
    net.count[1:].add_(1)
    return y


RENAMED = [
    relu, residual, chain, result_ignored, used_before, view_taken_after, view_written, filled_by_index,
    filled_in_pieces, written_again, piece_read_after_it_is_written,
]  # fmt: skip
OTHERS = [
    view_taken_before, base_read_after_its_view_is_written, input_written, buffer_written, mixed_types,
    without_gradients, statistics_of_the_batch, overlapping_pieces, slice_of_the_input_written,
    slice_of_a_buffer_written,
]  # fmt: skip


def network(function):
    torch.manual_seed(0)
    net = Plain(function).eval()
    net.bn.running_mean.uniform_(-1, 1)
    return net


@pytest.mark.parametrize("function", [*RENAMED, *OTHERS], ids=lambda f: f.__name__)
def test_the_program_computes_what_the_network_does(function):
    net, x = network(function), torch.randn(2, 3, 5, 5)
    program = export(net, x, has_rule)
    tensors = {name: tensor.clone() for name, tensor in named_tensors(net).items()}
    with torch.no_grad():
        got = Execution(program, tensors, x.clone()).run()[-1]
        expected = net(x.clone())
    assert torch.allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("function", [*RENAMED, *OTHERS], ids=lambda f: f.__name__)
def test_nothing_is_written_in_place(function):
    program = export(network(function), torch.randn(2, 3, 5, 5), has_rule)
    assert not any(getattr(getattr(n.target, "_schema", None), "is_mutable", False) for n in program.graph.nodes)


@pytest.mark.parametrize("function", RENAMED, ids=lambda f: f.__name__)
def test_writes_that_nothing_else_sees_are_renamed(function):
    traced = torch.export.export(network(function), (torch.randn(2, 3, 5, 5),), strict=False)
    assert functional(traced.graph, lambda node: True) is not None


@pytest.mark.parametrize("function", OTHERS, ids=lambda f: f.__name__)
def test_writes_that_something_else_sees_are_not(function):
    traced = torch.export.export(network(function), (torch.randn(2, 3, 5, 5),), strict=False)
    assert functional(traced.graph, lambda node: True) is None


def differences(net, y, x):
    both = (y > 0).__and__(y < 1)
    return (
        torch.diff(y, dim=3, append=y[..., :1]) * both + torch.stack(y.unflatten(1, (2, 2)).chunk(2, 2)).sum(0).mean()
    )


@pytest.mark.parametrize("function", [relu, differences], ids=lambda f: f.__name__)
def test_composite_operators_without_a_rule_are_taken_apart_where_they_stand(function):
    """No second trace is made, and what is left computes the same."""
    net, x = network(function), torch.randn(2, 3, 5, 5)
    traced = torch.export.export(net, (x,), strict=False)
    kept = lambda node: "batch_norm" in str(node.target)  # noqa: E731
    graph = functional(traced.graph, kept)
    assert graph is not None
    operators = [node for node in graph.nodes if node.op == "call_function" and node.target is not operator.getitem]
    assert not any(node.target._can_decompose() and not kept(node) for node in operators)
    assert {module_of(node) for node in operators} == {
        module_of(n) for n in traced.graph.nodes if n.op == "call_function"
    }
    got = torch.fx.Interpreter(torch.fx.GraphModule({}, graph)).run(*traced.state_dict.values(), x)
    torch.testing.assert_close(got[0], net(x))


def test_a_buffer_that_the_forward_writes_is_known_as_such():
    graph = trace(network(buffer_written), torch.randn(2, 3, 5, 5))
    assert graph.program.mutated == {"count"}

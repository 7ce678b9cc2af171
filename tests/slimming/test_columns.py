"""Dense layers over chosen columns equal the sparse layers they replace."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ssl_prune.models import LeNet5
from ssl_prune.slimming import SlimPlan, slim
from ssl_prune.slimming.modules import ColumnConv2d, ColumnLinear

pair = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(deadline=None, max_examples=60)
@given(kernel=pair, stride=pair, padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), dilation=pair,
       bias=st.booleans(), seed=st.integers(0, 99))  # fmt: skip
def test_a_column_convolution_equals_the_sparse_one(kernel, stride, padding, dilation, bias, seed):
    torch.manual_seed(seed)
    dense = nn.Conv2d(3, 4, kernel, stride, padding, dilation, bias=bias).double()
    keep = torch.rand(3, *kernel) < 0.4
    keep.view(-1)[seed % keep.numel()] = True
    with torch.no_grad():
        dense.weight.mul_(keep)
    columns = keep.nonzero().tolist()
    layer = ColumnConv2d(4, columns, kernel, stride, padding, dilation, bias).double()
    with torch.no_grad():
        layer.weight.copy_(dense.weight[:, keep][..., None, None])
        if bias:
            layer.bias.copy_(dense.bias)
    x = torch.randn(2, 3, 9, 8).double()
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5)])
def test_a_column_linear_equals_the_sparse_one(shape):
    dense = nn.Linear(5, 4)
    layer = ColumnLinear(4, [1, 4])
    with torch.no_grad():
        dense.weight[:, [0, 2, 3]] = 0
        layer.weight.copy_(dense.weight[:, [1, 4]])
        layer.bias.copy_(dense.bias)
    x = torch.randn(shape)
    torch.testing.assert_close(layer(x), dense(x))


def test_lenet_with_dead_kernel_positions_and_pixels():
    torch.manual_seed(0)
    net = LeNet5()
    with torch.no_grad():
        net.conv1.weight[:15] = 0
        net.conv1.bias[:15] = 0
        net.conv2.weight[:, 17, :2] = 0
        net.conv1.weight[:, :, 0] = 0
    x = torch.randn(2, 1, 28, 28)
    plain, result = slim(net, x), slim(net, x, columns=True)
    assert isinstance(result.model.conv2, ColumnConv2d)
    assert result.model.conv2.weight.shape == (50, 5 * 25 - 10, 1, 1)
    assert result.model.conv1.weight.shape == (5, 20, 1, 1)
    assert result.report.params[1] < plain.report.params[1]
    fresh = torch.randn(5, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(result.model(fresh), net.eval()(fresh), rtol=1e-5, atol=1e-5)
    again = SlimPlan.from_json(result.plan.to_json()).apply(net).eval()
    with torch.no_grad():
        assert torch.equal(again(fresh), result.model.eval()(fresh))


def test_input_features_that_nobody_reads_are_gathered_away():
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    net[0].bias.requires_grad_(False)
    with torch.no_grad():
        net[0].weight[:, [0, 5]] = 0
    result = slim(net, torch.randn(2, 6), columns=True)
    assert isinstance(result.model[0], ColumnLinear)
    assert result.model[0].columns.tolist() == [1, 2, 3, 4]
    assert isinstance(result.model[2], nn.Linear)
    assert (result.model[0].weight.requires_grad, result.model[0].bias.requires_grad) == (True, False)
    assert isinstance(slim(net, torch.randn(2, 6)).model[0], nn.Linear)


def test_a_layer_without_any_weight_keeps_one_column():
    net = nn.Sequential(nn.Linear(6, 4))
    with torch.no_grad():
        net[0].weight.zero_()
    result = slim(net, torch.randn(2, 6), columns=True)
    assert result.model[0].weight.shape == (4, 1)
    assert torch.equal(result.model(torch.randn(1, 6))[0], net[0].bias)

"""What goes, what stays, and what the report says about it."""

import pytest
import torch
from torch import nn

from ssl_prune import slim


class Net(nn.Module):
    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args):
        return self.function(self, *args)


def zero(layer, rows, bias=0.0):
    with torch.no_grad():
        layer.weight[rows] = 0
        if layer.bias is not None:
            layer.bias[rows] = bias


def same(net, result, *shape, bound=1e-5):
    """Equal on inputs that neither the cut nor its proof has seen."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(99)).to(next(net.parameters()).dtype) * 3 + 1
    with torch.no_grad():
        expected, got = net.eval()(x), result.model.eval()(x)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= bound * expected.abs().max()


def conv(i, o, k=1, **more):
    return nn.Conv2d(i, o, k, **more)


IMAGE = (2, 3, 6, 6)


def test_zero_filters_with_a_bias_are_folded():
    net = nn.Sequential(conv(3, 6, 3), nn.SiLU(), conv(6, 4, 3, bias=False))
    zero(net[0], slice(0, 2), 1.5)
    result = slim(net, torch.randn(IMAGE))
    assert result.model[0].weight.shape == (4, 3, 3, 3)
    assert result.model[2].in_channels == 4
    assert result.model[2].bias is not None  # it takes the constant in
    assert net[2].bias is None
    assert result.report.removed == {"0": 2}
    assert result.report.kept == ()
    same(net, result, *IMAGE)


def test_constants_under_padding_go_into_one_of_them():
    net = nn.Sequential(conv(3, 6, 3), nn.ReLU(), conv(6, 4, 3, padding=1))
    zero(net[0], [0, 1], 1.5)
    zero(net[0], [4], 0.5)
    zero(net[0], [2, 3], -1.5)  # zero after the activation, so padding does not matter
    result = slim(net, torch.randn(IMAGE))
    assert result.report.removed == {"0": 4}
    assert result.model[0].out_channels == 2
    (kept,) = result.report.kept
    assert (kept.layer, kept.count) == ("0", 1)
    assert "1.5" in kept.reason
    assert "2, which pads its input with zeros" in kept.reason
    assert "kept: 1 zero channels of 0" in str(result.report)
    same(net, result, *IMAGE)


def test_a_constant_that_differs_by_position_is_kept_with_its_reader():
    net = nn.Sequential(conv(3, 6, 3), conv(6, 6, 3, groups=6, padding=1), conv(6, 4))
    zero(net[0], [0, 1], 1.5)
    result = slim(net, torch.randn(IMAGE))
    assert result.report.removed == {}
    assert "differs by position into 2" in result.report.kept[0].reason
    same(net, result, *IMAGE)


def test_unread_channels_remove_their_writers():
    net = nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 4))
    with torch.no_grad():
        net[3].weight[:, 1:5] = 0
    result = slim(net, torch.randn(IMAGE))
    assert result.model[0].out_channels == result.model[1].num_features == result.model[3].in_channels == 2
    assert torch.equal(result.model[0].weight, net[0].weight[[0, 5]])
    same(net, result, *IMAGE)


def test_death_cascades_backward_and_forward():
    # Nobody reads the last two of layer 2; only they read the last three of layer 0.
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[4].weight[:, 2:] = 0
        net[2].weight[:2, 2:] = 0
    result = slim(net, torch.randn(2, 4))
    assert [tuple(result.model[i].weight.shape) for i in (0, 2, 4)] == [(2, 4), (2, 2), (2, 2)]
    same(net, result, 2, 4)
    # And forward: a dead first layer makes the second constant.
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    zero(net[0], slice(0, 3), 0.5)
    with torch.no_grad():
        net[2].weight[:3, 3:] = 0  # the first three of layer 2 read constants only
    result = slim(net, torch.randn(2, 4).double())
    assert [tuple(result.model[i].weight.shape) for i in (0, 2, 4)] == [(2, 4), (1, 2), (2, 1)]
    same(net, result, 2, 4, bound=1e-12)


@pytest.mark.parametrize("shift", [0.0, -1.0, 1.0])
@pytest.mark.parametrize("padding", [0, 1])
def test_never_the_last_channel(shift, padding):
    net = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5, 3, padding=padding), nn.ReLU(), conv(5, 2))
    zero(net[0], slice(None), shift)
    result = slim(net, torch.randn(IMAGE))
    for layer in result.model:
        if isinstance(layer, nn.Conv2d):
            assert min(layer.weight.shape) >= 1
    assert result.model[0].out_channels < 4 or (padding and shift > 0)
    same(net, result, *IMAGE)


def test_a_network_with_a_constant_output():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    zero(net[4], slice(None), 0.25)
    result = slim(net, torch.randn(2, 4))
    assert [tuple(result.model[i].weight.shape) for i in (0, 2, 4)] == [(1, 4), (1, 1), (3, 1)]
    assert torch.equal(result.model(torch.randn(7, 4)), torch.full((7, 3), 0.25))


def test_a_channel_kept_to_be_the_last_still_sees_what_it_needs():
    # Layer 2 is -1 + two constants of 0.4 behind a ReLU: zero. Whoever keeps one of its rows must keep both constants.
    net = nn.Sequential(conv(3, 2), nn.ReLU(), conv(2, 4, 3, padding=1), nn.ReLU(), conv(4, 2))
    zero(net[0], slice(None), 0.4)
    with torch.no_grad():
        net[2].weight.zero_()
        net[2].weight[:, 0, 1, 1] = 3.0
        net[2].weight[:, 1, 1, 1] = -3.0
        net[2].bias.fill_(-0.01)
    result = slim(net, torch.randn(IMAGE))
    assert result.model[2].out_channels == 1
    assert result.report.refused is None
    same(net, result, *IMAGE)


def test_a_layer_called_twice():
    net = Net(lambda s, x: s.o(torch.relu(s.a(torch.relu(s.a(s.i(x)))))), i=conv(3, 6), a=conv(6, 6), o=conv(6, 2))
    zero(net.i, slice(0, 3))
    zero(net.a, slice(0, 3))
    result = slim(net, torch.randn(IMAGE))
    assert tuple(result.model.a.weight.shape) == (3, 3, 1, 1)
    same(net, result, *IMAGE)


def test_a_layer_called_twice_does_not_fold_two_constants():
    net = Net(lambda s, x: s.o(torch.relu(s.a(torch.relu(s.a(s.i(x)))))), i=conv(3, 6), a=conv(6, 6), o=conv(6, 2))
    zero(net.i, [0], 0.5)
    zero(net.a, [0], 0.25)
    result = slim(net, torch.randn(IMAGE))
    assert result.report.kept
    same(net, result, *IMAGE)


def test_a_module_under_two_names():
    a = conv(6, 6)
    net = nn.Sequential(conv(3, 6), a, nn.ReLU(), a, conv(6, 2))
    zero(net[0], slice(0, 3))
    zero(a, slice(0, 3))
    result = slim(net, torch.randn(IMAGE))
    assert result.model[1] is result.model[3]
    assert tuple(result.model[1].weight.shape) == (3, 3, 1, 1)
    same(net, result, *IMAGE)


def test_a_depthwise_layer_follows():
    net = nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU6(), conv(6, 12, 3, padding=1, groups=6), conv(12, 2))
    zero(net[0], [1, 4])
    with torch.no_grad():
        net[1].bias[[1, 4]] = -1
        net[3].bias[[2, 3, 8, 9]] = 0
    result = slim(net, torch.randn(IMAGE))
    assert (result.model[3].groups, result.model[3].in_channels, result.model[3].out_channels) == (4, 4, 8)
    same(net, result, *IMAGE)


def test_a_grouped_layer_keeps_equal_groups():
    net = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4, 3, groups=2), nn.ReLU(), conv(4, 2))
    zero(net[0], [0, 4, 1])  # 0 and 4 are the first of each group; the partner of 1 lives
    result = slim(net, torch.randn(IMAGE))
    assert (result.model[2].in_channels, result.model[2].groups) == (6, 2)
    assert [k.count for k in result.report.kept] == [1]
    same(net, result, *IMAGE)


def test_transposed_convolution():
    net = nn.Sequential(nn.ConvTranspose2d(3, 6, 2, 2), nn.ReLU(), nn.ConvTranspose2d(6, 2, 3, 2, padding=1))
    with torch.no_grad():
        net[0].weight[:, :4] = 0
        net[0].bias[:4] = torch.tensor([-1.0, 0.0, -2.0, 1.0])
    result = slim(net, torch.randn(IMAGE))
    assert (result.model[0].out_channels, result.model[2].in_channels) == (3, 3)
    same(net, result, *IMAGE)


def test_batch_norm_without_a_scale_states_its_width():
    net = nn.Sequential(conv(3, 6), nn.BatchNorm2d(6, affine=False), nn.ReLU(), conv(6, 2))
    with torch.no_grad():
        net[3].weight[:, :2] = 0
    result = slim(net, torch.randn(IMAGE))
    assert (result.model[1].num_features, len(result.model[1].running_mean)) == (4, 4)
    same(net, result, *IMAGE)


def test_nothing_removable_changes_nothing():
    net = nn.Linear(4, 3)
    zero(net, [0])
    result = slim(net, torch.randn(2, 4))
    assert tuple(result.model.weight.shape) == (3, 4)
    assert [(k.count, "output" in k.reason) for k in result.report.kept] == [(1, True)]


def test_a_computed_weight_is_not_cut_by_its_zeros():
    net = Net(
        lambda s, x: nn.functional.linear(torch.relu(s.i(x)), torch.exp(s.w.weight)), i=nn.Linear(3, 4),
        w=nn.Linear(4, 2, bias=False),
    )  # fmt: skip
    with torch.no_grad():
        net.w.weight[:, :2] = 0  # exp(0) = 1
    result = slim(net, torch.randn(2, 3))
    assert result.report.refused is None
    assert result.report.params[0] == result.report.params[1]
    same(net, result, 2, 3)

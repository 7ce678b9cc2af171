"""Every network of the library with a random third of its coupled units at zero."""

import pytest
import torch
from torch import nn

from ssl_prune import SlimPlan, models, slim
from ssl_prune.graph import trace

SMALL = {
    "ResNet18": {"widths": (8, 16, 24, 32)},
    "VGG16BN": {"width": 0.125},
    "MobileNetV1": {"width": 0.25},
    "MobileNetV2": {"width": 0.25},
}
NETWORKS = [
    "LeNet300100",
    "MLP",
    "LeNet5",
    "ConvNet",
    "DigitsNet",
    "ResNet20",
    "ResNet32",
    "ResNet56",
    "ResNet18",
    "VGG16BN",
    "MobileNetV1",
    "MobileNetV2",
]
# Of each kind one is enough where time counts: the deeper ones have the same blocks, more often.
SLOW = {"MobileNetV2", "ResNet32", "ResNet56", "ResNet18", "VGG16BN", "MobileNetV1"}


def randomize(model):
    """Statistics as after training: a check on a network with shift 0 and scale 1 would prove little."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)


def zero_a_third(model, graph):
    units = torch.rand(graph.num_units, generator=torch.Generator().manual_seed(0)) < 1 / 3
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for axis in graph.axes:
            if axis.role != "reader":
                gone = torch.cat([units, torch.tensor([False])])[axis.units]
                parameters[axis.name].movedim(axis.axis, 0)[gone] = 0
    return int(units.sum())


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NETWORKS])
def test_a_third_is_cut_exactly(name):
    torch.manual_seed(0)
    model = getattr(models, name)(**SMALL.get(name, {})).eval()
    randomize(model)
    x = torch.randn(2, *model.input_shape)
    graph = trace(model, x)
    zeroed = zero_a_third(model, graph)
    result = slim(model, x, graph=graph)
    report = result.report
    assert report.refused is None
    assert report.kept == ()
    assert sum(report.removed.values()) >= zeroed
    assert report.macs[1] < 0.75 * report.macs[0]
    assert report.params[1] < 0.75 * report.params[0]
    assert report.params[1] == sum(p.numel() for p in result.model.parameters())
    fresh = torch.randn(3, *model.input_shape, generator=torch.Generator().manual_seed(7)) * 2 + 0.5
    with torch.no_grad():
        expected, got = model(fresh), result.model(fresh)
    assert (expected - got).abs().max() <= 1e-5 * expected.abs().max()
    if name in ("ResNet32", "ResNet56"):  # ResNet20 with more blocks; a second trace of them takes long
        return
    again = slim(result.model, x)
    assert again.report.removed == {}
    assert SlimPlan.from_json(again.plan.to_json()).modules == {}
    assert again.report.params[0] == again.report.params[1] == report.params[1]


def test_a_convolution_that_is_left_with_one_group_takes_constants_in():
    """Of two channels with the same constant under padding one is enough, but not in a convolution of several groups."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(2, 4, 1, bias=False), nn.Sigmoid(), nn.Conv1d(4, 2, 3, padding=1, groups=2), nn.Conv1d(2, 3, 1)
    ).double()
    with torch.no_grad():
        net[0].weight[2:] = 0  # both channels of the second group carry 0.5
        net[3].weight[:, 0] = 0  # nobody reads the first group
    x = torch.randn(2, 2, 7).double()
    result = slim(net, x, tolerance=1e-10)
    assert (result.model[2].groups, result.model[2].in_channels) == (1, 1)
    torch.testing.assert_close(result.model(x), net(x))
    assert not slim(result.model, x, tolerance=1e-10).plan.modules

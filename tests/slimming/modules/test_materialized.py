"""Layers that compute their weight become plain ones where that lets more go."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from ssl_prune import SlimPlan, load_slim, save_slim, slim
from ssl_prune.errors import SlimError
from ssl_prune.graph import trace
from ssl_prune.slimming.modules.materialized import computing_layers, plain


class Standardised(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Padded(Standardised):
    def forward(self, x):
        return super().forward(F.pad(x, (1, 1, 1, 1)))


class Twice(Standardised):
    def forward(self, x):
        return super().forward(x) + super().forward(x)


class Scaled(Standardised):
    def forward(self, x):
        return super().forward(x) * 2


class FromInput(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight * x.mean(), self.bias)


def pruned(layer):
    prune.random_unstructured(layer, "weight", 0.5)
    return layer


COMPUTING = {
    "standardised": lambda: Standardised(4, 6, 3, padding=1),
    "strided": lambda: Standardised(4, 6, 3, 2, 1, 1, 2),
    "dilated": lambda: Standardised(4, 6, (3, 1), dilation=2, bias=False),
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(4, 6, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Conv2d(4, 6, 1)),
    "masked": lambda: pruned(nn.Conv2d(4, 6, 3)),
}
OTHERS = {
    "plain": lambda: nn.Conv2d(4, 6, 3),
    "padded": lambda: Padded(4, 6, 3),
    "twice": lambda: Twice(4, 6, 3),
    "scaled": lambda: Scaled(4, 6, 3),
    "reflecting": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "from the input": lambda: FromInput(4, 6, 3),
}


@pytest.mark.parametrize("name", COMPUTING)
def test_the_plain_layer_is_what_the_layer_computes(name):
    torch.manual_seed(0)
    layer, x = COMPUTING[name]().eval(), torch.randn(2, 4, 9, 9)
    net = nn.Sequential(layer, nn.ReLU())
    assert computing_layers(trace(net, x).program, net) == ["0"]
    new = plain(layer)
    assert type(new) is nn.Conv2d
    torch.testing.assert_close(new(x), layer(x))
    assert {n for n, _ in new.named_parameters()} <= {"weight", "bias"}


@pytest.mark.parametrize("name", OTHERS)
def test_layers_that_do_anything_else_stay(name):
    layer, x = OTHERS[name]().eval(), torch.randn(2, 4, 9, 9)
    net = nn.Sequential(layer, nn.ReLU())
    assert computing_layers(trace(net, x).program, net) == []
    with pytest.raises(SlimError, match="expected a layer that is one product"):
        plain(layer)


def residual():
    """A network without normalisations, whose convolutions standardise their weights."""
    torch.manual_seed(0)
    net = nn.Sequential(Standardised(3, 8, 3, padding=1), nn.ReLU(), Standardised(8, 8, 3), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(8 * 36, 3))
    return net.eval()


def with_dead_filters():
    net = residual()
    with torch.no_grad():
        for layer, rows in ((net[0], [0, 3, 5]), (net[2], [1, 2])):
            layer.weight[rows], layer.bias[rows] = 0, 0
    return net


def test_dead_filters_of_standardised_layers_go():
    net, x = with_dead_filters(), torch.randn(2, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    result = slim(net, x)
    assert (result.model[0].out_channels, result.model[2].in_channels, result.model[2].out_channels) == (5, 5, 6)
    assert result.model[5].in_features == 6 * 36
    torch.testing.assert_close(result.model(x), net(x), rtol=1e-5, atol=1e-5)
    assert result.report.params[0] == sum(p.numel() for p in net.parameters())
    assert result.report.params[1] == sum(p.numel() for p in result.model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    own = {t.untyped_storage().data_ptr() for t in net.state_dict().values()}
    assert not own & {t.untyped_storage().data_ptr() for t in result.model.state_dict().values()}


def test_nothing_changes_where_nothing_goes():
    net, x = residual(), torch.randn(2, 3, 8, 8)
    result = slim(net, x)
    assert isinstance(result.model[0], Standardised)
    assert not result.plan.modules


def test_the_plan_cuts_a_fresh_network_and_travels_in_a_file(tmp_path):
    net, x = with_dead_filters(), torch.randn(2, 3, 8, 8)
    result = slim(net, x)
    again = SlimPlan.from_json(result.plan.to_json()).apply(with_dead_filters())
    assert torch.equal(again(x), result.model(x))
    save_slim(tmp_path / "net.safetensors", result)
    loaded = load_slim(tmp_path / "net.safetensors", residual())
    assert torch.equal(loaded(x), result.model(x))


def test_a_plan_for_a_layer_that_is_none_is_refused():
    net, x = with_dead_filters(), torch.randn(2, 3, 8, 8)
    plan = slim(net, x).plan
    other = residual()
    other[0] = Scaled(3, 8, 3, padding=1)
    with pytest.raises(SlimError, match="one product with a weight it computes"):
        plan.apply(other)


def test_a_threshold_is_stated_beside():
    net, x = residual(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        net[0].weight[1], net[0].bias[1] = 0, 1e-6
    result = slim(net, x, threshold=1e-4)
    assert result.model[0].out_channels == 7
    assert result.report.threshold is not None

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from ssl_prune.costs import cost
from ssl_prune.models import MLP, LeNet5, LeNet300100, MobileNetV1, ResNet20, ResNet32


def macs(result):
    return {name: layer.macs for name, layer in result.layers.items()}


def test_lenet5_as_published():
    result = cost(LeNet5(), torch.zeros(1, 1, 28, 28))
    assert macs(result) == {"conv1": 288_000, "conv2": 1_600_000, "fc1": 400_000, "fc2": 5_000}
    assert result.macs == 2_293_000
    assert result.params == 431_080
    assert result.bytes == 4 * 431_080
    assert result.layers["conv2"].params == 25_050
    assert result.layers["conv2"].kind == "Conv2d"


@pytest.mark.parametrize(("network", "expected"), [(LeNet300100, 266_200), (MLP, 545_000)])
def test_mlps_as_published(network, expected):
    assert cost(network(), torch.zeros(1, 1, 28, 28)).macs == expected


def test_resnets_by_hand():
    # Stem 27 * 16 * 1024; three stages of n blocks at 9 * 16 * 16 * 1024 a convolution, the first of a stage half of
    # that; projections 16 * 32 * 256 and 32 * 64 * 64; linear 640.
    full = 9 * 16 * 16 * 1024
    for network, n in ((ResNet20, 3), (ResNet32, 5)):
        expected = 27 * 16 * 1024 + full * (3 * 2 * n - 1) + 16 * 32 * 256 + 32 * 64 * 64 + 640
        # stage 1 has 2n full convolutions, stages 2 and 3 have 2n - 1 full ones and a half one: together 6n - 1
        assert cost(network(), torch.zeros(1, 3, 32, 32)).macs == expected


def test_depthwise_convolutions():
    result = cost(MobileNetV1(), torch.zeros(1, 3, 32, 32))
    assert result.layers["features.1.0"].macs == 32 * 9 * 1024
    assert result.layers["features.1.3"].macs == 32 * 64 * 1024


def test_a_batch_counts_as_often_as_it_has_samples():
    net = LeNet5()
    assert cost(net, torch.zeros(7, 1, 28, 28)).macs == 7 * 2_293_000
    assert cost(net, torch.zeros(7, 1, 28, 28)).params == 431_080


def test_nothing_changes():
    net = ResNet20()
    net.layer1.eval()
    modes = [m.training for m in net.modules()]
    before = copy.deepcopy(net.state_dict())
    gradients = [p.requires_grad for p in net.parameters()]
    cost(net, torch.randn(2, 3, 32, 32))
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == gradients
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


class Counts(nn.Module):
    """Writes its buffers in evaluation mode too, in place and by assignment."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.last = self.last + x.sum()
        return x


def test_buffers_written_in_evaluation_mode_are_untouched():
    net = Counts()
    cost(net, torch.ones(3))
    assert net.calls.item() == 0
    assert net.last.item() == 0


def test_an_error_leaves_the_network_as_it_was():
    net = LeNet5()
    with pytest.raises(RuntimeError):
        cost(net, torch.zeros(1, 3, 28, 28))
    assert net.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_shared_parameter_counts_once_and_its_work_twice():
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    net[1].weight = net[0].weight
    result = cost(net, torch.zeros(1, 8))
    assert (result.macs, result.params, result.bytes) == (128, 64, 256)
    assert [layer.params for layer in result.layers.values()] == [64, 0]
    shared = nn.Linear(8, 8, bias=False)
    result = cost(nn.Sequential(shared, nn.ReLU(), shared), torch.zeros(1, 8))
    assert (result.macs, result.params) == (128, 64)


class Functional(nn.Module):
    """Work of its own, a submodule, and a part of a submodule that it calls past the container."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))
        self.inner = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(4, 3, bias=False))

    def forward(self, x):
        return self.inner[0](F.linear(x, self.weight)), self.inner[1](x) @ torch.ones(3, 5)


def test_work_outside_modules_belongs_to_the_caller():
    result = cost(Functional(), torch.zeros(1, 4))
    assert macs(result) == {"": 16 + 15, "inner.0": 8, "inner.1": 12}
    assert result.macs == 51


def test_bytes_follow_the_type_and_have_the_saved_buffers():
    norm = nn.BatchNorm1d(8)  # two parameters, two statistics, one int64
    assert cost(norm, torch.zeros(2, 8)).bytes == 4 * 4 * 8 + 8
    assert cost(norm, torch.zeros(2, 8)).params == 16
    assert cost(nn.Linear(8, 8).bfloat16(), torch.zeros(2, 8, dtype=torch.bfloat16)).bytes == 2 * 72
    norm.register_buffer("scratch", torch.zeros(100), persistent=False)
    assert cost(norm, torch.zeros(2, 8)).bytes == 4 * 4 * 8 + 8


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x, scale):
        return self.fc(x) * scale


@pytest.mark.parametrize("wrap", [tuple, list, lambda pair: {"scale": pair[1], "x": pair[0]}])
def test_inputs_of_every_form(wrap):
    assert cost(Two(), wrap((torch.zeros(1, 4), torch.ones(1)))).macs == 8


def test_other_inputs_are_refused():
    with pytest.raises(TypeError, match="got str, expected a tensor"):
        cost(nn.Linear(2, 2), "x")


def test_attention_is_counted():
    length, width = 5, 16
    layer = nn.TransformerEncoderLayer(width, 4, 32, batch_first=True)
    projections = length * width * 4 * width
    attention = 2 * length * length * width
    feedforward = 2 * length * width * 32
    assert cost(layer, torch.zeros(1, length, width)).macs == projections + attention + feedforward
    assert torch.backends.mha.get_fastpath_enabled()


def test_recurrent_layers_are_counted():
    lstm = nn.LSTM(3, 8)
    assert cost(lstm, torch.zeros(5, 1, 3)).macs == 5 * (3 * 32 + 8 * 32)


def test_the_table_has_every_layer_and_the_total():
    text = str(cost(LeNet5(), torch.zeros(1, 1, 28, 28)))
    lines = [line.split() for line in text.splitlines()]
    assert ["conv2", "Conv2d", "1,600,000", "25,050", "100,200"] in lines
    assert ["total", "2,293,000", "431,080", "1,724,320"] in lines


@pytest.mark.parametrize(
    ("net", "inputs"),
    [
        (LeNet5(), torch.zeros(2, 1, 28, 28)),
        (ResNet20(), torch.zeros(1, 3, 32, 32)),
        (MobileNetV1(), torch.zeros(1, 3, 32, 32)),
        (nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), torch.zeros(1, 5, 16)),
        (nn.LSTM(3, 8), torch.zeros(5, 1, 3)),
        (Functional(), torch.zeros(1, 4)),
        (Two(), (torch.zeros(1, 4), torch.ones(1))),
        (Two(), {"x": torch.zeros(1, 4), "scale": torch.ones(1)}),
    ],
)
def test_shapes_alone_give_the_same_counts(net, inputs, monkeypatch):
    expected = cost(net, inputs)
    real = []
    monkeypatch.setattr(
        torch.func, "functional_call", lambda *a, call=torch.func.functional_call: real.append(a[1]) or call(*a)
    )
    assert cost(net, inputs, run=False) == expected
    assert len(real) == 1  # it was not run beside
    assert all(isinstance(t, FakeTensor) for t in real[0].values())


class Asks(nn.Module):
    """Its code depends on a number, and it keeps what it has seen."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        self.seen = self.fc(x)
        return self.fc(self.seen @ torch.ones(2, 4)) if x.sum() > 0 else self.seen


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_code_that_asks_for_a_number_is_run(value):
    net, x = Asks(), torch.full((1, 4), value)
    expected = cost(net, x)
    assert cost(net, x, run=False) == expected
    assert not hasattr(net, "seen")  # it is left as it was


def test_no_traced_tensor_stays_in_the_network():
    class Keeps(nn.Linear):
        def forward(self, x):
            self.seen = super().forward(x)
            return self.seen

    net = Keeps(2, 2)
    cost(net, torch.zeros(1, 2), run=False)
    assert not hasattr(net, "seen")

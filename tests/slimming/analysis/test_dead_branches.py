"""Dead residual branches disappear as a whole, and leave the constant they added."""

import pytest
import torch
from torch import nn

from ssl_prune import SlimPlan, load_slim, save_slim, slim
from ssl_prune.slimming.modules.constant import Blank, Constant


class Block(nn.Module):
    """conv-bn-relu-conv-bn around a shortcut, written in several ways."""

    def __init__(self, add, activation=nn.ReLU, stride=1):
        super().__init__()
        self.add = add
        self.conv1, self.bn1 = nn.Conv2d(4, 6, 3, stride, 1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.act = activation()
        self.short = nn.Conv2d(4, 4, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return self.act(self.add(out, self.short(x)))


def plus(out, x):
    return out + x


def in_place(out, x):
    out += x
    return out


def subtract(out, x):
    return x - out


def network(block, shift, dtype=torch.float64):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), block, nn.Conv2d(4, 2, 1)).to(dtype)
    with torch.no_grad():
        block.conv2.weight.zero_()
        block.bn2.bias.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]) * shift)
        block.bn2.running_mean.normal_().mul_(shift)
        block.bn1.bias.normal_()
    return net.eval()


def gap(net, result, size=9):
    """Relative difference on an input that neither the cut nor its proof has seen; the size differs too."""
    x = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(5)).to(next(net.parameters()).dtype)
    with torch.no_grad():
        return ((net(x) - result.model(x)).abs().max() / net(x).abs().max()).item()


def sample():
    return torch.randn(2, 3, 8, 8).double()


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("add", [plus, subtract])
def test_a_dead_branch_becomes_its_constant(add, stride, shift):
    net = network(Block(add, stride=stride), shift)
    result = slim(net, sample())
    assert result.report.refused is None
    assert not any(isinstance(m, nn.BatchNorm2d) for m in result.model.modules())
    block = result.model[1]
    assert isinstance(block.conv1, nn.Identity)
    assert isinstance(block.bn2, Constant)
    assert {c.name for c in result.report.layers if c.after is None} == {"1.conv1", "1.conv2"}
    assert gap(net, result) <= 1e-14


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("add", "inplace"), [(in_place, False), (in_place, True), (plus, True)])
def test_branches_that_write_in_place_go_as_a_whole(add, inplace, stride, shift):
    net = network(Block(add, stride=stride, activation=lambda: nn.ReLU(inplace=inplace)), shift)
    result = slim(net, sample())
    assert result.report.refused is None
    assert {c.name for c in result.report.layers if c.after is None} == {"1.conv1", "1.conv2"}
    assert gap(net, result) <= 1e-14
    assert gap(net, result, size=11) <= 1e-14


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_blank_has_the_size_of_the_layer_it_stands_for(kernel, stride, padding, dilation):
    layer = nn.Conv2d(1, 1, kernel, stride, padding, dilation)
    blank = Blank([[(kernel, stride, padding, padding, dilation)] * 2])
    for size in range(9, 14):
        x = torch.randn(2, 1, size, 13)
        assert blank(x).shape == layer(x).shape
        assert not blank(x).any()


def test_the_constant_is_narrowed_with_its_channels():
    net = network(Block(plus), 1)
    with torch.no_grad():
        net[2].weight[:, :2] = 0
    result = slim(net, sample())
    assert result.model[1].bn2.value.shape == (1, 2, 1, 1)
    assert result.model[0].out_channels == 2
    assert gap(net, result) <= 1e-14


def test_the_plan_alone_does_the_same():
    net = network(Block(plus), 1)
    result = slim(net, sample())
    again = SlimPlan.from_json(result.plan.to_json()).apply(net)
    assert gap(net, type(result)(again, result.plan, result.report)) <= 1e-14


class Tail(nn.Module):
    """A branch whose last operator is a function of its container."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        return torch.sigmoid(self.bn(self.conv(x)))


class Around(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.stem, self.branch, self.head = nn.Conv2d(3, 4, 1), branch, nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.branch(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_whole_container_can_be_the_branch(dtype):
    torch.manual_seed(0)
    net = Around(Tail()).to(dtype).eval()
    with torch.no_grad():
        net.branch.conv.weight.zero_()
    result = slim(net, torch.randn(2, 3, 8, 8, dtype=dtype))
    assert isinstance(result.model.branch, Constant)
    assert result.model.branch.value.dtype == dtype
    assert gap(net, result) <= (1e-14 if dtype == torch.float64 else 1e-6)


def test_an_activation_as_the_end_of_a_branch_keeps_the_precision():
    torch.manual_seed(0)
    net = Around(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Sigmoid())).double().eval()
    with torch.no_grad():
        net.branch[0].weight.zero_()
        net.branch[0].bias.normal_()
    result = slim(net, sample())
    assert isinstance(result.model.branch[2], Constant)
    assert gap(net, result) <= 1e-14


class Tokens(nn.Module):
    """Channels last: no constant can stand in along axis 1."""

    def __init__(self, tokens):
        super().__init__()
        self.i, self.a, self.b, self.o = nn.Linear(6, 6), nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.i(x)
        return self.o(x + self.b(torch.relu(self.a(x))))


@pytest.mark.parametrize("tokens", [4, 6])
@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_a_dead_branch_over_tokens(tokens, bias):
    net = Tokens(tokens).double()
    with torch.no_grad():
        net.b.weight.zero_()
        net.b.bias.fill_(bias)
    result = slim(net, torch.randn(2, tokens, 6).double())
    assert result.report.params[1] < result.report.params[0]
    x = torch.randn(3, tokens + 1, 6).double()
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), net(x), rtol=1e-12, atol=1e-12)


class Residual(nn.Module):
    """A block of linear layers over tokens, as in a transformer."""

    def __init__(self, between=None):
        super().__init__()
        self.inp, self.norm = nn.Linear(4, 6), nn.LayerNorm(6)
        self.a, self.b, self.out = nn.Linear(6, 10), nn.Linear(10, 6), nn.Linear(6, 3)
        self.between = between or (lambda h: h)

    def forward(self, x):
        h = torch.relu(self.inp(x))
        return self.out(h + self.b(torch.relu(self.between(self.a(self.norm(h))))))


@pytest.mark.parametrize("shape", [(2, 4), (2, 5, 4)])
@pytest.mark.parametrize("bias", [0.0, 0.7])
@pytest.mark.parametrize("dead", ["a", "b"])
def test_a_dead_branch_of_linear_layers_goes_as_a_whole(tmp_path, dead, bias, shape):
    net = Residual()
    with torch.no_grad():
        getattr(net, dead).weight.zero_()
        getattr(net, dead).bias.fill_(bias)
    result = slim(net, torch.randn(*shape))
    assert not result.report.kept
    assert not [name for name, _ in result.model.named_parameters() if name.startswith(("a.", "b.", "norm."))]
    save_slim(tmp_path / "net.safetensors", result)
    x = torch.randn(3, *shape[1:])
    for model in (result.model, load_slim(tmp_path / "net.safetensors", Residual())):
        torch.testing.assert_close(model.eval()(x), net.eval()(x))


def test_a_dead_branch_that_counts_its_channels_stays_a_branch():
    """A layer whose outputs are taken apart cannot pass its input through."""
    net = Residual(lambda h: h.view(*h.shape[:-1], 5, 2).flip(-1).flatten(-2))
    with torch.no_grad():
        net.b.weight.zero_()
    result = slim(net, torch.randn(2, 4))
    x = torch.randn(3, 4)
    torch.testing.assert_close(result.model.eval()(x), net.eval()(x))
    assert isinstance(result.model.b, nn.Linear)

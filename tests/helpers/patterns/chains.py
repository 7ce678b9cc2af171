"""Chains of layers: activations, constants, padding, pooling, and channels between convolution and linear."""

import torch
from torch import nn
from torch.nn import functional as F

from patterns.registry import DEATHS, Made, Net, chain, dead, image, kill, pattern, unread

LAYERS = {
    "linear": (nn.Linear, {}, (2, 3)),
    "conv1d": (nn.Conv1d, {"kernel_size": 3}, (2, 3, 9)),
    "conv2d": (nn.Conv2d, {"kernel_size": 3}, (2, 3, 7, 7)),
    "conv3d": (nn.Conv3d, {"kernel_size": 2}, (2, 3, 4, 5, 6)),
    "transposed1d": (nn.ConvTranspose1d, {"kernel_size": 3}, (2, 3, 5)),
    "transposed2d": (nn.ConvTranspose2d, {"kernel_size": 2, "stride": 2}, (2, 3, 4, 4)),
}
ACTIVATIONS = {
    name: getattr(nn, name)
    for name in ["ReLU", "SiLU", "GELU", "Sigmoid", "Softplus", "Tanh", "ELU", "LeakyReLU", "Hardswish", "Hardsigmoid", "ReLU6", "Mish", "SELU", "Softsign", "LogSigmoid"]
}  # fmt: skip


@pattern(
    each={f"{layer}-{how}": (layer, how) for layer in LAYERS for how in DEATHS},
    kept=("transposed1d-constant", "transposed2d-constant"),  # what a constant adds differs at the border
)
def plain(layer: str, how: str) -> Made:
    kind, arguments, shape = LAYERS[layer]
    net = chain(kind(3, 8, **arguments), nn.ReLU(), kind(8, 4, **arguments))
    dead(net[0], net[2], (0, 3, 4), how)
    return net, torch.randn(shape)


@pattern(each={f"{name}-{how}": (kind, how) for name, kind in ACTIVATIONS.items() for how in ("zero", "constant")})
def activation(kind: type[nn.Module], how: str) -> Made:
    net = chain(nn.Conv2d(3, 8, 3), kind(), nn.Conv2d(8, 4, 3))
    dead(net[0], net[2], (1, 2, 6), how)
    return net, image()


@pattern(each=DEATHS, dtype=torch.float32)
def single_precision(how: str) -> Made:
    net = chain(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(16, 5))
    dead(net[1], net[3], (1, 2, 6), how)
    return net, image()


@pattern(smaller=None, each=("zero", "constant"))
def softmax_over_channels(how: str) -> Made:
    net = chain(nn.Linear(3, 8), nn.Softmax(-1), nn.Linear(8, 4))
    dead(net[0], net[2], (1, 2, 6), how)
    return net, torch.randn(5, 3)


@pattern(each={"positions": "unread", "unread": "unread"}, kept=("positions",))
def softmax_over_positions(how: str) -> Made:
    """A dead channel is one over the number of positions, which another image has more of."""
    net = chain(nn.Conv1d(3, 8, 3), nn.Softmax(-1), nn.Conv1d(8, 4, 3))
    dead(net[0], net[2], (1, 2, 6), how)
    return net, torch.randn(2, 3, 9)


@pattern(each=DEATHS, kept=("constant",))
def zero_padding(how: str) -> Made:
    net = chain(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    dead(net[0], net[2], (1, 2, 6), how)
    return net, image()


@pattern(each={f"{mode}-{how}": (mode, how) for mode in ("circular", "reflect", "replicate") for how in DEATHS})
def padding_mode(mode: str, how: str) -> Made:
    net = chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1, padding_mode=mode))
    dead(net[0], net[2], (1, 2, 6), how)
    return net, image()


@pattern(each=DEATHS, kept=("constant",))
def padding_same(how: str) -> Made:
    net = chain(nn.Conv2d(3, 8, 3, padding="same"), nn.ReLU(), nn.Conv2d(8, 4, 3, padding="same", dilation=2))
    dead(net[0], net[2], (1, 2, 6), how)
    return net, image()


PADS = {
    "ZeroPad2d": (nn.ZeroPad2d, (1,)),
    "ReflectionPad2d": (nn.ReflectionPad2d, (1,)),
    "ReplicationPad2d": (nn.ReplicationPad2d, (1,)),
    "ConstantPad2d": (nn.ConstantPad2d, (1, 0.7)),
}


@pattern(
    each={f"{name}-{how}": (name, how) for name in PADS for how in ("zero", "constant")},
    kept=("ZeroPad2d-constant", "ConstantPad2d-zero", "ConstantPad2d-constant"),
)
def padding_module(name: str, how: str) -> Made:
    kind, arguments = PADS[name]
    net = chain(nn.Conv2d(3, 8, 3), nn.ReLU(), kind(*arguments), nn.Conv2d(8, 4, 3))
    dead(net[0], net[3], (1, 2, 6), how)
    return net, image()


@pattern()
def padded_constant_that_is_not_read() -> Made:
    net = chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    kill(net[0], (1, 2), 0.5)
    unread(net[2], (1, 2))
    return net, image()


SHIFTS = {"positive": 0.5, "negative": -0.5, "zero": 0.0}


@pattern(
    each={f"{name}-{padding}": (shift, padding) for name, shift in SHIFTS.items() for padding in (0, 1)},
    kept=("positive-1",),
)
def norm_scale_zero(shift: float, padding: int) -> Made:
    net = chain(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=padding))
    kill(net[1], (0, 5, 7), shift)
    return net, image()


@pattern(each={"0": 0, "1": 1}, kept=("1",))
def rows_zero_before_norm(padding: int) -> Made:
    """The shift and the running mean turn the zero into a constant."""
    net = chain(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 4, 3, padding=padding))
    kill(net[0], (0, 5, 7))
    return net, image()


@pattern()
def norm_before_the_layer() -> Made:
    net = chain(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
                nn.Conv2d(6, 2, 1))  # fmt: skip
    kill(net[0], (1, 2))
    kill(net[4], (0, 3), 0.2)
    return net, image(size=8)


@pattern()
def norm_after_linear() -> Made:
    net = chain(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 3))
    kill(net[0], (0, 5, 7), 0.3)
    return net, torch.randn(4, 5)


@pattern()
def norm_over_three_axes() -> Made:
    net = chain(nn.Conv3d(1, 6, 2), nn.BatchNorm3d(6), nn.ReLU(), nn.Conv3d(6, 2, 2))
    kill(net[1], (0, 5), -0.4)
    return net, torch.randn(2, 1, 4, 4, 4)


@pattern(smaller=None)
def rows_of_the_last_layer() -> Made:
    net = chain(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
    kill(net[2], (0, 2), 0.3)
    return net, torch.randn(4, 5)


@pattern(smaller=None)
def columns_of_the_first_layer() -> Made:
    net = chain(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
    unread(net[0], (0, 2))
    return net, torch.randn(4, 5)


@pattern(each=DEATHS)
def death_spreads_through_layers(how: str) -> Made:
    """Where a channel goes, so do those that only it reads, and those that read only it."""
    net = chain(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        net[2].weight[4:, :4] = 0
        net[2].weight[:4, 4:] = 0
        net[4].weight[4:, :4] = 0
    dead(net[4], net[6], (0, 1, 2, 3), how)
    return net, torch.randn(5, 4)


@pattern(each=("zero", "constant"))
def whole_layer(how: str) -> Made:
    """Two outputs, so that one goes on saying something."""
    net = Net(lambda s, x: s.c(F.relu(s.b(F.relu(s.a(x))))) + s.d(x), a=nn.Linear(4, 8), b=nn.Linear(8, 6),
              c=nn.Linear(6, 3), d=nn.Linear(4, 3))  # fmt: skip
    dead(net.b, net.c, range(6), how)
    return net, torch.randn(5, 4)


@pattern(smaller=None, each=("zero", "constant"))
def constant_network(how: str) -> Made:
    net = chain(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    dead(net[2], net[4], range(6), how)
    return net, torch.randn(5, 4)


@pattern(smaller=None, each=("zero", "constant"))
def constant_output_layer(how: str) -> Made:
    net = chain(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 3))
    kill(net[2], range(3), 0.5 if how == "constant" else 0.0)
    return net, torch.randn(5, 4)


@pattern(smaller=None, each=DEATHS)
def width_one(how: str) -> Made:
    net = chain(nn.Linear(4, 1), nn.Sigmoid(), nn.Linear(1, 3))
    dead(net[0], net[2], (0,), how)
    return net, torch.randn(5, 4)


@pattern(each=DEATHS)
def all_but_one(how: str) -> Made:
    net = chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    dead(net[0], net[2], range(1, 8), how)
    return net, image()


@pattern(each=DEATHS)
def flatten_before_linear(how: str) -> Made:
    net = chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
    rows = (0, 5, 6)
    if how == "unread":
        unread(net[3], [row * 16 + i for row in rows for i in range(16)])
    else:
        kill(net[0], rows, 0.5 if how == "constant" else 0)
    return net, image()


@pattern()
def flatten_with_some_positions_unread() -> Made:
    """A channel stays where one of its positions is read, and goes where none is."""
    net = chain(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 4))
    unread(net[3], list(range(20)) + list(range(40, 64)))
    return net, image()


POOLS = {
    "max": nn.MaxPool2d(2),
    "max-padded": nn.MaxPool2d(3, 2, 1),
    "max-ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "avg": nn.AvgPool2d(2),
    "avg-padded": nn.AvgPool2d(3, 2, 1),
    "avg-padding-not-counted": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "adaptive-avg": nn.AdaptiveAvgPool2d(2),
    "adaptive-max": nn.AdaptiveMaxPool2d((1, 2)),
    "lp": nn.LPPool2d(2, 2),
    "nearest": nn.Upsample(scale_factor=2),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bicubic": nn.Upsample(scale_factor=2, mode="bicubic"),
}


@pattern(
    each={f"{name}-{how}": (name, how) for name in POOLS for how in ("zero", "constant")},
    kept=("avg-padded-constant", "bicubic-constant", "bilinear-constant", "lp-constant"),
)
def pooling(name: str, how: str) -> Made:
    net = chain(nn.Conv2d(3, 8, 3), nn.ReLU(), POOLS[name], nn.Conv2d(8, 4, 1))
    dead(net[0], net[3], (0, 5, 6), how)
    return net, image(size=8)


@pattern()
def max_pooling_with_indices() -> Made:
    def forward(s: Net, x: torch.Tensor) -> torch.Tensor:
        h, where = F.max_pool2d(F.relu(s.a(x)), 2, return_indices=True)
        return s.c(F.max_unpool2d(s.b(h), where[:, :6], 2))

    net = Net(forward, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 6, 1), c=nn.Conv2d(6, 2, 1))
    kill(net.b, (0, 4))
    unread(net.c, (0, 4))
    return net, image()


@pattern(each=("zero", "constant"))
def global_mean(how: str) -> Made:
    net = Net(lambda s, x: s.fc(F.relu(s.conv(x)).mean((2, 3))), conv=nn.Conv2d(3, 8, 3, padding=1), fc=nn.Linear(8, 4))
    dead(net.conv, net.fc, (2, 4), how)
    return net, image()


@pattern(each=("mean", "sum", "amax"), kept=("mean", "amax"))
def reduce_over_channels(how: str) -> Made:
    net = Net(
        lambda s, x: s.fc(getattr(F.relu(s.conv(x)), how)(1).flatten(1)), conv=nn.Conv2d(3, 8, 3), fc=nn.Linear(16, 4)
    )
    kill(net.conv, (2, 4))
    return net, image()


@pattern(each=("zero", "unread"))
def dropout_of_channels(how: str) -> Made:
    net = chain(nn.Conv2d(3, 8, 3), nn.Dropout2d(0.5), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(8, 4, 3))
    dead(net[0], net[4], (2, 4), how)
    return net, image()


@pattern(each=DEATHS)
def prelu_of_each_channel(how: str) -> Made:
    net = chain(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 4, 3))
    dead(net[0], net[2], (2, 4), how)
    return net, image()


@pattern()
def prelu_of_all_channels() -> Made:
    net = chain(nn.Conv2d(3, 8, 3), nn.PReLU(), nn.Conv2d(8, 4, 3))
    kill(net[0], (2, 4), -0.5)
    return net, image()


@pattern(each=("softmax", "sum"), kept=("softmax",))
def linear_attention_pooling(how: str) -> Made:
    """Positions are weighted by one channel computed from all of them."""

    def forward(s: Net, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(s.a(x))
        weight = s.score(h).softmax(1) if how == "softmax" else s.score(h)
        return s.fc((h * weight).sum(1))

    net = Net(forward, a=nn.Linear(4, 8), score=nn.Linear(8, 1), fc=nn.Linear(8, 3))
    kill(net.a, (2, 4))
    return net, torch.randn(2, 5, 4)

"""Parameters and buffers that are not plainly a layer's weight: tied, computed, per channel, frozen, complex."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from patterns.registry import DEATHS, Made, Net, chain, dead, image, kill, pattern, unread


@pattern(each=("zero", "constant"))
def frozen_layers(how: str) -> Made:
    net = chain(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))
    dead(net[1], net[3], (0, 3), how)
    kill(net[3], (1,), 0.1)
    for layer in net[:3]:
        layer.requires_grad_(False)
    return net, image()


@pattern(each=("zero", "scale", "unread"))
def scale_of_each_channel(how: str) -> Made:
    net = Net(lambda s, x: s.b(s.a(x) * s.scale.view(1, -1, 1, 1) + s.shift[:, None, None]), a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1),
              scale=nn.Parameter(torch.rand(8) + 0.5), shift=nn.Parameter(torch.randn(8)))  # fmt: skip
    if how == "zero":
        kill(net.a, (0, 5))
    elif how == "scale":
        with torch.no_grad():
            net.scale[[0, 5]] = 0
    else:
        unread(net.b, (0, 5))
    return net, image()


@pattern(each=("zero", "unread"))
def buffer_of_each_channel(how: str) -> Made:
    net = Net(
        lambda s, x: s.b(F.relu((s.a(x) - s.mean) / s.std)),
        a=nn.Linear(4, 8),
        b=nn.Linear(8, 2),
        mean=torch.randn(8),
        std=torch.rand(8) + 0.5,
    )
    dead(net.a, net.b, (0, 5), how)
    return net, torch.randn(5, 4)


@pattern()
def buffer_of_the_input() -> Made:
    net = Net(
        lambda s, x: s.b(F.relu(s.a((x - s.mean) / s.std))),
        a=nn.Conv2d(3, 8, 1),
        b=nn.Conv2d(8, 2, 1),
        mean=torch.randn(3, 1, 1),
        std=torch.rand(3, 1, 1) + 0.5,
    )
    kill(net.a, (0, 5))
    return net, image()


@pattern(smaller=None)
def tensor_that_is_not_registered() -> Made:
    """A plain attribute: no state_dict holds it, and no plan can name it."""
    net = Net(
        lambda s, x: s.b(F.relu(s.a(x) * s.plain[0])), a=nn.Linear(4, 8), b=nn.Linear(8, 2), plain=[torch.rand(8) + 0.5]
    )
    kill(net.a, (0, 5))
    return net, torch.randn(5, 4)


@pattern(smaller=None)
def buffer_that_is_not_saved() -> Made:
    net = Net(lambda s, x: s.b(F.relu(s.a(x) * s.plain)), a=nn.Linear(4, 8), b=nn.Linear(8, 2))
    net.register_buffer("plain", torch.rand(8) + 0.5, persistent=False)
    kill(net.a, (0, 5))
    return net, torch.randn(5, 4)


@pattern(smaller=None)
def positions_added_to_channels() -> Made:
    net = Net(
        lambda s, x: s.b(s.a(x) + s.position),
        a=nn.Conv1d(3, 8, 1),
        b=nn.Conv1d(8, 2, 1),
        position=nn.Parameter(torch.randn(1, 8, 9)),
    )
    kill(net.a, (0, 5))
    return net, torch.randn(2, 3, 9)


@pattern()
def positions_added_to_live_channels() -> Made:
    net = Net(
        lambda s, x: s.b(s.a(x) + s.position),
        a=nn.Conv1d(3, 8, 1),
        b=nn.Conv1d(8, 2, 1),
        position=nn.Parameter(torch.randn(1, 8, 9)),
    )
    kill(net.a, (0, 5))
    with torch.no_grad():
        net.position[:, [0, 5]] = 0
    return net, torch.randn(2, 3, 9)


@pattern(
    each=("weight-norm", "spectral-norm", "orthogonal", "own"),
    kept=("weight-norm", "spectral-norm", "orthogonal", "own"),
)
def parametrised(how: str) -> Made:
    """A weight that is computed: what can be cut is what it is computed from."""

    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    net = chain(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    kill(net[0], (0, 5))
    if how == "weight-norm":
        parametrizations.weight_norm(net[2])
        with torch.no_grad():
            net[2].parametrizations.weight.original0[[1, 2]] = 0
            net[2].bias[[1, 2]] = 0
    elif how == "spectral-norm":
        parametrizations.spectral_norm(net[2])
    elif how == "orthogonal":
        parametrizations.orthogonal(net[2])
    else:
        kill(net[2], (1, 2))
        parametrize.register_parametrization(net[2], "weight", Doubled())
    return net, torch.randn(5, 4)


@pattern()
def parametrised_layer_beside_plain_ones() -> Made:
    net = chain(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    parametrizations.weight_norm(net[0])
    kill(net[4], (1, 2), 0.2)
    return net, torch.randn(5, 4)


@pattern(smaller=None)
def masked_weight() -> Made:
    net = Net(
        lambda s, x: s.b(F.relu(F.linear(x, s.weight * s.mask))),
        weight=nn.Parameter(torch.randn(8, 4)),
        mask=(torch.rand(8, 4) > 0.3).to(torch.float64),
        b=nn.Linear(8, 2),
    )
    with torch.no_grad():
        net.mask[[0, 5]] = 0
    return net, torch.randn(5, 4)


@pattern(each=("zero", "constant", "unread"))
def functional_calls(how: str) -> Made:
    net = Net(lambda s, x: F.conv2d(F.relu(F.conv2d(x, s.w1, s.b1)), s.w2), w1=nn.Parameter(torch.randn(8, 3, 3, 3)), b1=nn.Parameter(torch.randn(8)),
              w2=nn.Parameter(torch.randn(2, 8, 1, 1)))  # fmt: skip
    with torch.no_grad():
        if how == "unread":
            net.w2[:, [0, 5]] = 0
        else:
            net.w1[[0, 5]] = 0
            net.b1[[0, 5]] = 0 if how == "zero" else -0.3
    return net, image()


class Conv1D(nn.Module):
    """The layer of GPT-2: its weight is the transpose of a linear layer's."""

    def __init__(self, width: int, into: int) -> None:
        super().__init__()
        self.nf, self.weight, self.bias = (
            width,
            nn.Parameter(torch.randn(into, width)),
            nn.Parameter(torch.randn(width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(shape)


@pattern(each=DEATHS, kept=("constant",))
def layers_that_are_an_addmm(how: str) -> Made:
    net = chain(Conv1D(8, 5), nn.GELU(), Conv1D(3, 8))
    with torch.no_grad():
        if how == "unread":
            net[2].weight[[1, 4, 6]] = 0
        else:
            net[0].weight[:, [1, 4, 6]] = 0
            net[0].bias[[1, 4, 6]] = 0.5 if how == "constant" else 0
    return net, torch.randn(2, 4, 5)


@pattern(each=("transposed", "value"))
def sum_with_a_product(how: str) -> Made:
    """The weight lies as in a linear layer, and what is added is a bias or another layer's output."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(torch.addmm(s.shift if how == "transposed" else s.skip(x), x, s.weight.t()))
        return s.c(h)

    net = Net(forward, skip=nn.Linear(5, 8), weight=nn.Parameter(torch.randn(8, 5)), shift=nn.Parameter(torch.randn(8)),
              c=nn.Linear(8, 3))  # fmt: skip
    kill(net.skip, (1, 4, 6))
    with torch.no_grad():
        net.weight[[1, 4, 6]], net.shift[[1, 4, 6]] = 0, 0
    if how == "transposed":
        del net.skip
    else:
        del net.shift
    return net, torch.randn(4, 5)


@pattern()
def list_of_parameters() -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        for weight in s.weights[:-1]:
            x = torch.tanh(x @ weight)
        return x @ s.weights[-1]

    shapes = ((4, 8), (8, 6), (6, 3))
    net = Net(forward, weights=nn.ParameterList(torch.randn(shape) for shape in shapes))
    with torch.no_grad():
        net.weights[0][:, [0, 5]] = 0
        net.weights[1][:, [2]] = 0
    return net, torch.randn(5, 4)


@pattern(each=("list", "dict", "nested"))
def containers(how: str) -> Made:
    def layers() -> nn.Sequential:
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))

    blocks: nn.Module
    if how == "dict":
        blocks = nn.ModuleDict({"one": layers(), "two": layers()})
    elif how == "nested":
        blocks = nn.ModuleList([nn.ModuleList([layers(), layers()])])
    else:
        blocks = nn.ModuleList([layers(), layers()])

    def forward(s: Net, x: Tensor) -> Tensor:
        found = s.blocks.values() if how == "dict" else s.blocks[0] if how == "nested" else s.blocks
        for block in found:
            x = torch.tanh(block(x))
        return x

    net = Net(forward, blocks=blocks)
    inner = [m for m in net.modules() if isinstance(m, nn.Sequential)]
    kill(inner[0][0], (0, 5), 0.2)
    kill(inner[1][0], (1,))
    kill(inner[0][2], (4,))
    return net, torch.randn(5, 6)


@pattern(each=("transposed", "same", "same-module-names"))
def tied_weights(how: str) -> Made:
    if how == "transposed":
        net = Net(lambda s, x: F.linear(torch.relu(s.a(x)), s.a.weight.t()), a=nn.Linear(4, 8))
        kill(net.a, (0, 5))
        return net, torch.randn(5, 4)
    a, b = nn.Linear(8, 8), nn.Linear(8, 8)
    if how == "same":
        b.weight = a.weight
    else:
        b = a
    net = Net(
        lambda s, x: s.head(torch.relu(s.b(torch.relu(s.a(s.stem(x)))))),
        stem=nn.Linear(4, 8),
        a=a,
        b=b,
        head=nn.Linear(8, 3),
    )
    kill(a, (0, 5))
    kill(b, (0, 5))
    unread(a, (0, 5))
    kill(net.stem, (0, 5))
    return net, torch.randn(5, 4)


@pattern()
def low_rank_adapter() -> Made:
    """A rank of the adapter is a channel like any other."""
    net = Net(
        lambda s, x: s.head(torch.relu(s.base(x) + s.up(s.down(x)))),
        base=nn.Linear(6, 8),
        down=nn.Linear(6, 4, bias=False),
        up=nn.Linear(4, 8, bias=False),
        head=nn.Linear(8, 3),
    )
    kill(net.down, (1,))
    unread(net.up, (2,))
    return net, torch.randn(5, 6)


@pattern(smaller=None)
def statistics_updated_in_forward() -> Made:
    """The mean over channels that goes into the buffer is over fewer of them."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.a(x))
        s.count += 1
        s.seen.mul_(0.9).add_(h.mean(), alpha=0.1)
        return s.b(h)

    net = Net(
        forward, a=nn.Linear(4, 8), b=nn.Linear(8, 2), count=torch.zeros((), dtype=torch.long), seen=torch.zeros(())
    )
    unread(net.b, (0, 5))
    kill(net.a, (0, 5))
    return net, torch.randn(5, 4)


@pattern(smaller=None)
def statistics_of_each_channel_updated_in_forward() -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.a(x))
        s.seen.mul_(0.9).add_(h.mean(0), alpha=0.1)
        return s.b(h - s.seen)

    net = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 2), seen=torch.rand(8))
    kill(net.a, (0, 5))
    return net, torch.randn(5, 4)


@pattern(smaller=None, each=("fft", "weights"))
def complex_numbers(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.a(x))
        if how == "fft":
            return s.b(torch.fft.irfft(torch.fft.rfft(h, dim=1) * 0.5, n=5, dim=1))
        return s.b(torch.view_as_real(h.to(torch.complex128) @ s.w).flatten(-2))

    net = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 2), w=nn.Parameter(torch.randn(8, 4, dtype=torch.complex128)))
    kill(net.a, (0, 5))
    return net, torch.randn(2, 5, 4)


@pattern(each=("vector", "image"))
def no_batch_axis(how: str) -> Made:
    if how == "vector":
        net = chain(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        kill(net[0], (0, 5), 0.2)
        return net, torch.randn(4)
    net = chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3))
    kill(net[0], (0, 5), 0.2)
    return net, torch.randn(3, 6, 6)


@pattern()
def integer_input() -> Made:
    net = Net(lambda s, x: s.b(F.relu(s.a(x.to(s.a.weight.dtype) / 255))), a=nn.Linear(4, 8), b=nn.Linear(8, 3))
    kill(net.a, (0, 5), 0.2)
    return net, torch.randint(0, 256, (5, 4))


@pattern(dtype=torch.float32)
def higher_precision_inside() -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        return s.b(F.relu(s.a(x)).to(torch.float64).to(torch.float32))

    net = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 3))
    kill(net.a, (0, 5))
    return net, torch.randn(5, 4)


@pattern(each=DEATHS, kept=("constant",))
def buffer_as_a_weight(how: str) -> Made:
    """A fixed transform between two layers, such as a cosine transform: its rows and columns go as a layer's do."""

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("basis", torch.randn(6, 8))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.basis)

    net = chain(nn.Linear(4, 8), nn.ReLU(), Fixed(), nn.Linear(6, 2))
    if how == "unread":
        unread(net[3], (0, 5))
    else:
        kill(net[0], (0, 5), 0.0 if how == "zero" else 0.2)
    return net, torch.randn(5, 4)


@pattern(smaller=None)
def weights_computed_from_the_input() -> Made:
    """A hypernetwork."""

    def forward(s: Net, x: Tensor) -> Tensor:
        weight = s.hyper(x.mean(0)).view(8, 4)
        return s.b(F.relu(F.linear(x, weight)))

    net = Net(forward, hyper=nn.Linear(4, 32), b=nn.Linear(8, 2))
    kill(net.hyper, range(4))
    unread(net.b, (5,))
    return net, torch.randn(5, 4)


@pattern(each=DEATHS)
def standardised_weight(how: str) -> Made:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            w = self.weight
            w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
            return F.conv2d(x, w, self.bias)

    net = chain(Standardised(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    dead(net[0], net[2], (0, 5), how)
    return net, image()

"""Normalisations, whose statistics may run over the channels that go."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patterns.registry import Made, Net, chain, image, kill, pattern, unread


@pattern(each=("input", "scale", "unread"), smaller=None)
def layer_norm(how: str) -> Made:
    net = chain(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    if how == "input":
        kill(net[0], (0, 5))
    elif how == "scale":
        kill(net[1], (0, 5), 0.3)
    else:
        unread(net[3], (0, 5))
    return net, torch.randn(6, 4)


@pattern()
def layer_norm_beside_a_hidden_layer() -> Made:
    net = chain(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 10), nn.GELU(), nn.Linear(10, 3))
    kill(net[0], (0, 5))
    kill(net[2], (0, 5, 6), 0.3)
    return net, torch.randn(6, 4)


@pattern()
def layer_norm_beside_a_class_token() -> Made:
    """One position carries other channels than the rest, and all of them meet in the norm."""

    def forward(s: Net, x: Tensor) -> Tensor:
        tokens = torch.cat([s.token(x.mean(1, keepdim=True)), s.a(x)], 1)
        return s.head((tokens + s.down(F.gelu(s.up(s.norm(tokens)))))[:, 0])

    net = Net(
        forward,
        token=nn.Linear(4, 6),
        a=nn.Linear(4, 6),
        norm=nn.LayerNorm(6),
        up=nn.Linear(6, 9),
        down=nn.Linear(9, 6),
        head=nn.Linear(6, 2),
    )
    kill(net.up, (0, 5, 7), 0.2)
    return net, torch.randn(2, 5, 4)


@pattern(smaller=None)
def layer_norm_over_channels_of_an_image() -> Made:
    net = Net(
        lambda s, x: s.b(s.norm(s.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        a=nn.Conv2d(3, 8, 1),
        norm=nn.LayerNorm(8),
        b=nn.Conv2d(8, 2, 1),
    )
    kill(net.a, (0, 5))
    return net, image()


@pattern()
def layer_norm_over_positions_only() -> Made:
    net = Net(lambda s, x: s.b(s.norm(s.a(x))), a=nn.Conv2d(3, 8, 1), norm=nn.LayerNorm((6, 6)), b=nn.Conv2d(8, 2, 1))
    unread(net.b, (0, 5))
    return net, image()


@pattern(
    each={"whole-group": (0, 1), "part-of-a-group": (0, 3), "scale": (4, 5)},
    kept=("part-of-a-group",),
)
def group_norm(*rows: int) -> Made:
    net = chain(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    if rows == (4, 5):
        kill(net[1], rows, 0.2)
    else:
        kill(net[0], rows)
    return net, image()


@pattern(each=("conv", "norm"))
def group_norm_before_padding(where: str) -> Made:
    """A group that is gone leaves its shift, which the next layer meets at its borders."""
    net = chain(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 2, 1))
    kill(net[0] if where == "conv" else net[1], (2, 3, 6, 7), 0.3 if where == "norm" else 0.0)
    return net, image()


@pattern()
def norm_of_each_head() -> Made:
    """Queries and keys are normalised head by head: a head that is gone leaves the others' statistics alone."""

    def forward(s: Net, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (s.q, s.k, s.v))
        return s.o(F.scaled_dot_product_attention(s.nq(q), s.nk(k), v).transpose(1, 2).flatten(2))

    net = Net(
        forward,
        **{name: nn.Linear(6, 12) for name in "qkv"},
        nq=nn.LayerNorm(4),
        nk=nn.RMSNorm(4),
        o=nn.Linear(12, 3),
    )
    for layer in (net.q, net.k, net.v):
        kill(layer, range(4, 8))
    unread(net.o, range(4, 8))
    return net, torch.randn(2, 5, 6)


@pattern(each=("affine", "plain", "statistics"))
def instance_norm(how: str) -> Made:
    """A channel at zero comes out as the shift alone."""
    norm = nn.InstanceNorm2d(8, affine=how != "plain", track_running_stats=how == "statistics")
    net = chain(nn.Conv2d(3, 8, 1), norm, nn.ReLU(), nn.Conv2d(8, 2, 1))
    kill(net[0], (0, 5))
    if how != "plain":
        kill(net[1], (2,), -0.3)
    return net, image()


@pattern(each=("zero", "unread"), smaller=None)
def rms_norm(how: str) -> Made:
    net = chain(nn.Linear(4, 8), nn.RMSNorm(8), nn.Linear(8, 3))
    if how == "zero":
        kill(net[0], (0, 5))
    else:
        unread(net[2], (0, 5))
    return net, torch.randn(6, 4)


@pattern(smaller=None)
def rms_norm_by_hand() -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = s.a(x)
        return s.b(s.scale * h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6))

    net = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 3), scale=nn.Parameter(torch.rand(8) + 0.5))
    kill(net.a, (0, 5))
    return net, torch.randn(6, 4)


@pattern(each=("l2", "cosine"))
def unit_length_over_channels(how: str) -> Made:
    """Zeros add nothing to a length, whatever their number."""

    def forward(s: Net, x: Tensor) -> Tensor:
        if how == "l2":
            return s.c(F.normalize(s.a(x), dim=1))
        return F.cosine_similarity(s.a(x), s.b(x), dim=1)

    net = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(4, 8), c=nn.Linear(8, 3))
    kill(net.a, (0, 5))
    kill(net.b, (0, 5))
    return net, torch.randn(6, 4)


@pattern(smaller=None)
def local_response_norm() -> Made:
    net = chain(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.LocalResponseNorm(3), nn.Conv2d(8, 2, 1))
    kill(net[0], (0, 5))
    return net, image()


@pattern(each=("plain", "batch-statistics"))
def batch_norm_without_scale(how: str) -> Made:
    net = chain(
        nn.Conv2d(3, 8, 1),
        nn.BatchNorm2d(8, affine=False, track_running_stats=how == "plain"),
        nn.ReLU(),
        nn.Conv2d(8, 2, 1),
    )
    kill(net[0], (0, 5), -0.2)
    return net, image()


@pattern()
def batch_norm_with_the_statistics_of_the_batch() -> Made:
    net = chain(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(), nn.Conv2d(8, 2, 1))
    kill(net[1], (0, 5), -0.2)
    return net, image()


@pattern(each=("stem", "conv"))
def pre_activation_block(how: str) -> Made:
    net = Net(lambda s, x: s.head((h := s.stem(x)) + s.b(F.relu(s.n2(s.a(F.relu(s.n1(h))))))), stem=nn.Conv2d(3, 6, 1), n1=nn.BatchNorm2d(6),
              a=nn.Conv2d(6, 8, 3, padding=1), n2=nn.BatchNorm2d(8), b=nn.Conv2d(8, 6, 1), head=nn.Conv2d(6, 2, 1))  # fmt: skip
    if how == "stem":
        kill(net.stem, (0, 3))
        kill(net.n1, (0, 3), -0.1)
        kill(net.b, (0, 3))
    else:
        kill(net.n2, (1, 7), 0.4)
    return net, image()


@pattern()
def affine_norm_from_a_condition() -> Made:
    """FiLM: scale and shift of a feature are computed from another input."""

    def forward(s: Net, x: Tensor, y: Tensor) -> Tensor:
        scale, shift = s.film(y).chunk(2, 1)
        return s.b(F.relu(s.a(x) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]))

    net = Net(forward, a=nn.Conv2d(3, 8, 1), film=nn.Linear(5, 16), b=nn.Conv2d(8, 2, 1))
    kill(net.a, (0, 5))
    kill(net.film, (8, 13), -0.1)
    return net, (image(), torch.randn(2, 5))


STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "var": lambda h: torch.cat([h.mean(2), h.var(2)], 1),
    "std": lambda h: torch.cat([h.mean(2), h.std(2, unbiased=False)], 1),
    "std_mean": lambda h: torch.cat(torch.std_mean(h, 2), 1),
    "var_mean": lambda h: torch.cat(torch.var_mean(h, -1, correction=0), 1),
    "norm": lambda h: torch.cat([h.amax(2), h.norm(dim=2)], 1),
    "norm-1": lambda h: torch.cat([h.amin(2), h.norm(p=1, dim=2)], 1),
    "kept": lambda h: torch.cat([h.mean(2, keepdim=True), h.var(2, keepdim=True)], 1).flatten(1),
}


@pattern(each={f"{name}-{how}": (pool, how) for name, pool in STATISTICS.items() for how in ("zero", "constant")},
         kept=("norm-constant", "norm-1-constant"))  # fmt: skip
def statistics_over_positions(pool: Callable[[Tensor], Tensor], how: str) -> Made:
    """A channel that is zero everywhere, or one number, deviates by nothing; its length grows with the positions."""
    net = Net(lambda s, x: s.b(pool(torch.relu(s.a(x)))), a=nn.Conv1d(3, 8, 3), b=nn.Linear(16, 2))
    kill(net.a, (0, 1, 5), 0.5 if how == "constant" else 0.0)
    return net, torch.randn(2, 3, 9)


class ResponseNorm(nn.Module):
    """Global response normalisation as ConvNeXt v2 has it, in the ways it is written."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.how, self.first = how, how == "channels-first"
        shape = (1, width, 1, 1) if self.first else (width,) if how == "addcmul" else (1, 1, 1, width)
        self.gamma, self.beta = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        places, channel = ((2, 3), 1) if self.first else ((1, 2), -1)
        size = torch.norm(x, p=2, dim=places, keepdim=True)
        x_n = x * (size / (size.mean(dim=channel, keepdim=True) + 1e-2))
        if self.how == "addcmul":
            return x + torch.addcmul(self.beta.view(1, 1, 1, -1), self.gamma.view(1, 1, 1, -1), x_n)
        return self.gamma * x_n + self.beta + x


@pattern(
    each=("channels-last", "channels-first", "addcmul", "shift", "unread", "constant"), kept=("unread", "constant")
)
def global_response_normalisation(how: str) -> Made:
    """A channel of zeros counts in the mean over all of them: the divisor stays that of the dense layer.

    A channel that nobody reads counts too, and a constant is as large as the image.
    """

    def forward(s: Net, x: Tensor) -> Tensor:
        y = s.up(s.stem(x).permute(0, 2, 3, 1)).relu()
        y = s.norm(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if how == "channels-first" else s.norm(y)
        return s.down(y)

    norm = ResponseNorm(8, how)
    net = Net(forward, stem=nn.Conv2d(3, 4, 1), up=nn.Linear(4, 8), norm=norm, down=nn.Linear(8, 3))
    with torch.no_grad():
        if how == "unread":
            net.down.weight[:, [1, 4]] = 0
        else:
            kill(net.up, (1, 4, 5), 0.5 if how == "constant" else 0.0)
            if how != "shift":
                norm.beta.view(-1)[[1, 4, 5]] = 0
    return net, image(size=4)

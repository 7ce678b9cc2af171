"""Expected units of small networks, written by hand.

A pattern has one letter per position of an axis: equal letters are one unit, "." is never removed. All networks are
traced at once, side by side: one export is much faster than sixty.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_prune.graph import trace


class Net(nn.Module):
    """A network from a function and its modules, parameters and buffers."""

    def __init__(self, function, **members):
        super().__init__()
        self.function = function
        for name, member in members.items():
            if isinstance(member, torch.Tensor) and not isinstance(member, nn.Parameter):
                self.register_buffer(name, member)
            else:
                setattr(self, name, member)

    def forward(self, *args):
        return self.function(self, *args)


def conv(i, o, k=1, **more):
    return nn.Conv2d(i, o, k, **more)


IMAGE = (2, 3, 8, 8)
CASES = {}


def case(name, net, shape=IMAGE, reason="", **patterns):
    assert name not in CASES
    CASES[name] = (net, shape, reason, patterns)


def between(name, operation, written, read, reason=""):
    """What is done to the channels of one convolution before another reads them."""
    layer = operation if isinstance(operation, nn.Module) else Net(lambda s, x: operation(x))
    net = nn.Sequential(conv(3, len(written)), layer, conv(len(read), 1))
    case(name, net, reason=reason, _0__weight__0=written, _2__weight__1=read)


case(
    "chain",
    nn.Sequential(conv(3, 2), nn.BatchNorm2d(2), nn.ReLU(), conv(2, 4)),
    _0__weight__0="ab",
    _0__bias__0="ab",
    _0__weight__1="...",
    _1__weight__0="ab",
    _1__bias__0="ab",
    _1__running_mean__0="ab",
    _1__running_var__0="ab",
    _3__weight__1="ab",
    _3__weight__0="....",
    _3__bias__0="....",
)
case(
    "residual",
    Net(lambda s, x: s.c(s.a(x) + s.b(s.a(x))), a=conv(3, 2), b=conv(2, 2), c=conv(2, 1)),
    a__weight__0="ab",
    b__weight__0="ab",
    b__weight__1="ab",
    c__weight__1="ab",
)
case(
    "residual_on_the_input",
    Net(lambda s, x: s.c(x + s.b(torch.relu(s.a(x)))), a=conv(3, 2), b=conv(2, 3), c=conv(3, 1)),
    a__weight__0="ab",
    b__weight__0="...",
    b__weight__1="ab",
    c__weight__1="...",
)
case(
    "depthwise",
    Net(lambda s, x: s.c(s.b(s.a(x))), a=conv(3, 2), b=conv(2, 2, 3, groups=2, padding=1), c=conv(2, 1)),
    a__weight__0="ab",
    b__weight__0="ab",
    b__bias__0="ab",
    b__weight__1=".",
    c__weight__1="ab",
)
case(
    "depthwise_multiplier",
    Net(lambda s, x: s.c(s.b(s.a(x))), a=conv(3, 2), b=conv(2, 4, 3, groups=2), c=conv(4, 1)),
    a__weight__0="ab",
    b__weight__0="cdef",
    c__weight__1="cdef",
)
# Every channel is a unit of its own; that groups stay equally wide is decided when they are cut.
case(
    "grouped",
    Net(lambda s, x: s.c(s.b(s.a(x))), a=conv(3, 4), b=conv(4, 6, groups=2), c=conv(6, 1)),
    a__weight__0="abcd",
    b__weight__0="efghij",
    b__weight__1="..",
    c__weight__1="efghij",
)
case(
    "cat",
    Net(lambda s, x: s.c(torch.cat([s.a(x), s.b(x)], 1)), a=conv(3, 2), b=conv(3, 1), c=conv(3, 1)),
    a__weight__0="ab",
    b__weight__0="c",
    c__weight__1="abc",
)
case(
    "flatten",
    Net(lambda s, x: s.b(s.a(x).flatten(1)), a=conv(3, 2), b=nn.Linear(8, 3)),
    (2, 3, 2, 2),
    a__weight__0="ab",
    b__weight__1="aaaabbbb",
)
case(
    "flatten_channels_last",
    Net(lambda s, x: s.b(s.a(x).permute(0, 2, 3, 1).flatten(1)), a=conv(3, 2), b=nn.Linear(8, 3)),
    (2, 3, 2, 2),
    a__weight__0="ab",
    b__weight__1="abababab",
)


def glu(y):
    value, gate = y.chunk(2, 1)
    return value * torch.sigmoid(gate)


def shuffle(y):
    n, c, h, w = y.shape
    return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


between("chunk", glu, "abab", "ab")
between("shuffle", shuffle, "abcd", "acbd")
between("pixel_shuffle", lambda y: F.pixel_shuffle(y, 2), "aaaabbbb", "ab")
between("flip_and_roll", lambda y: y.flip(1).roll(1, 1), "abc", "acb")
case(
    "slice",
    Net(lambda s, x: s.b(s.a(x)[:, 1:3]) + s.c(s.a(x)[:, ::2]), a=conv(3, 4), b=conv(2, 1), c=conv(2, 1)),
    a__weight__0="abcd",
    b__weight__1="bc",
    c__weight__1="ac",
)
case(
    "transposed",
    Net(lambda s, x: s.b(s.a(x)), a=nn.ConvTranspose2d(3, 2, 2, stride=2), b=nn.ConvTranspose2d(2, 4, 2)),
    a__weight__1="ab",
    a__weight__0="...",
    b__weight__0="ab",
    b__weight__1="....",
)
for n, Conv, Norm in ((1, nn.Conv1d, nn.BatchNorm1d), (3, nn.Conv3d, nn.BatchNorm3d)):
    case(
        f"conv{n}d",
        nn.Sequential(Conv(3, 2, 1), Norm(2), Conv(2, 1, 3)),
        (2, 3, *[4] * n),
        _0__weight__0="ab",
        _1__bias__0="ab",
        _2__weight__1="ab",
    )
case(
    "tokens",
    nn.Sequential(nn.Linear(3, 2), nn.GELU(), nn.Linear(2, 4)),
    (2, 5, 3),
    _0__weight__0="ab",
    _2__weight__1="ab",
    _2__weight__0="....",
)


def tied():
    a, b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    b.weight = a.weight
    return Net(lambda s, x: s.o(s.b(torch.relu(s.a(s.i(x))))), i=nn.Linear(3, 4), a=a, b=b, o=nn.Linear(4, 1))


# Rows of the first are columns of the second, and both are one matrix: its two axes are tied.
case("tied", tied(), (2, 3), i__weight__0="abcd", a__weight__0="abcd", a__weight__1="abcd", o__weight__1="abcd")
case(
    "called_twice",
    Net(lambda s, x: s.o(s.a(torch.relu(s.a(s.i(x))))), i=conv(3, 2), a=conv(2, 2), o=conv(2, 1)),
    i__weight__0="ab",
    a__weight__0="ab",
    a__weight__1="ab",
    o__weight__1="ab",
)
again = conv(2, 2)
case(
    "two_names",
    nn.Sequential(conv(3, 2), again, nn.ReLU(), again, conv(2, 1)),
    _0__weight__0="ab",
    _1__weight__0="ab",
    _1__weight__1="ab",
    _4__weight__1="ab",
)
between("padded_channels", lambda y: F.pad(y, (0, 0, 0, 0, 1, 1)), "ab", ".ab.")
case(
    "padded_shortcut",
    Net(lambda s, x: s.o(s.b(x) + F.pad(s.a(x), (0, 0, 0, 0, 0, 1))), a=conv(3, 2), b=conv(3, 3), o=conv(3, 1)),
    a__weight__0="ab",
    b__weight__0="abc",
    o__weight__1="abc",
)
for mode in ("reflect", "replicate", "circular", "zeros"):
    case(
        f"padding_{mode}",
        nn.Sequential(conv(3, 2), conv(2, 1, 3, padding=1, padding_mode=mode)),
        _0__weight__0="ab",
        _1__weight__1="ab",
    )
for keep in (True, False):
    case(
        f"mean_over_positions_{keep}",
        Net(lambda s, x, keep=keep: s.b(s.a(x).mean((2, 3), keepdim=keep).flatten(1)), a=conv(3, 2), b=nn.Linear(2, 1)),
        a__weight__0="ab",
        b__weight__1="ab",
    )
REDUCTIONS = {
    "mean": lambda y: y.mean(1, keepdim=True),
    "sum": lambda y: y.sum(),
    "amax": lambda y: y.amax((1, 2), keepdim=True),
    "norm": lambda y: y.norm(),
    "norm_integer_order": lambda y: torch.linalg.vector_norm(y, 2),
    "norm_over_channels": lambda y: torch.linalg.vector_norm(y, 2, dim=1, keepdim=True),
    "max": lambda y: y.max(1, keepdim=True).values,
    "cumsum": lambda y: y.cumsum(1),
}
for name, reduction in REDUCTIONS.items():
    between(f"channels_{name}", lambda y, reduction=reduction: y * reduction(y), "..", "..")


def squeeze(s, x):
    y = s.a(x)
    gate = torch.sigmoid(s.up(torch.relu(s.down(y.mean((2, 3))))))
    return s.b(y * gate[:, :, None, None])


case(
    "squeeze_excitation",
    Net(squeeze, a=conv(3, 4), down=nn.Linear(4, 2), up=nn.Linear(2, 4), b=conv(4, 1)),
    a__weight__0="abcd",
    down__weight__1="abcd",
    down__weight__0="ef",
    up__weight__1="ef",
    up__weight__0="abcd",
    up__bias__0="abcd",
    b__weight__1="abcd",
)
# The mask has one channel, which meets all four: it is kept, and the four are not merged into one.
case(
    "spatial_mask",
    Net(lambda s, x: s.b(s.a(x) * torch.sigmoid(s.m(x))), a=conv(3, 4), m=conv(3, 1), b=conv(4, 1)),
    reason="one channel is broadcast over many",
    m__weight__0=".",
    a__weight__0="abcd",
    b__weight__1="abcd",
)
SCALES = {
    "view": lambda g: g.view(1, -1, 1, 1),
    "index": lambda g: g[:, None, None],
    "index_batch": lambda g: g[None, :, None, None],
    "expand": lambda g: g.reshape(2, 1, 1).expand(2, 8, 8),
    "function": lambda g: g.unsqueeze(-1).unsqueeze(-1).abs(),
}
for name, shape in SCALES.items():
    case(
        f"scale_{name}",
        Net(
            lambda s, x, shape=shape: s.b(shape(s.g) * s.a(x)),
            a=conv(3, 2),
            b=conv(2, 1),
            g=nn.Parameter(torch.ones(2)),
        ),
        a__weight__0="ab",
        g__0="ab",
        b__weight__1="ab",
    )
case(
    "shift_in_four_dimensions",
    Net(lambda s, x: s.b(s.a(x) + s.g), a=conv(3, 2), b=conv(2, 1), g=nn.Parameter(torch.ones(1, 2, 1, 1))),
    a__weight__0="ab",
    g__1="ab",
    b__weight__1="ab",
)
case(
    "prelu",
    nn.Sequential(conv(3, 2), nn.PReLU(2), conv(2, 1)),
    _0__weight__0="ab",
    _1__weight__0="ab",
    _2__weight__1="ab",
)
for name, operation, written, read in (
    ("group_norm", nn.GroupNorm(2, 4), "aabb", "aabb"),
    ("norm_of_each_group", lambda y: F.layer_norm(y.unflatten(1, (2, 2)), (2, 8, 8)).flatten(1, 2), "aabb", "aabb"),
    ("softmax_inside_groups", lambda y: y.unflatten(1, (2, 2)).softmax(2).flatten(1, 2), "aabb", "aabb"),
    ("softmax_across_groups", lambda y: y.unflatten(1, (2, 2)).softmax(1).flatten(1, 2), "abab", "abab"),
    ("mean_across_groups", lambda y: y.unflatten(1, (2, 2)).mean(1), "abab", "ab"),
    ("softmax_over_positions", nn.Softmax(3), "ab", "ab"),
    ("cumsum_over_positions", lambda y: y.cumsum(2), "abcd", "abcd"),
    ("sort_over_positions", lambda y: y.sort(2).values, "abcd", "abcd"),
    ("fancy_index", lambda y: y[:, torch.tensor([1, 0, 3, 2])], "abcd", "badc"),
    ("index_select", Net(lambda s, y: y.index_select(1, s.p), p=torch.tensor([1, 0, 3, 2])), "abcd", "badc"),
):
    between(name, operation, written, read)
for name, operation, reason in (
    ("group_norm_of_one_group", nn.GroupNorm(1, 4), "group normalisation"),
    ("layer_norm", nn.LayerNorm([4, 8, 8]), "a normalisation runs over the channels"),
    ("softmax", nn.Softmax(1), "softmax runs over the channels"),
    ("cumsum", lambda y: y.cumsum(1), "runs along the channels"),
    ("computed_index", lambda y: y[:, (y[0, :, 0, 0] > 0).long()], "chosen by an index"),
    ("sort", lambda y: y.sort(1).values, "runs along the channels"),
):
    between(f"pinned_by_{name}", operation, "....", "....", reason)
case(
    "layer_norm_of_tokens",
    nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)),
    (2, 5, 3),
    _0__weight__0="..",
    _2__weight__1="..",
    _2__weight__0="abcd",
    _4__weight__1="abcd",
)
# A square matrix: its transpose has the shape of its own self. And a zero is no zero after exp.
for name, use in (("transpose", lambda w: w.t()), ("exp", torch.exp), ("norm", lambda w: w / w.norm())):
    case(
        f"weight_{name}",
        Net(
            lambda s, x, use=use: s.o(F.linear(torch.relu(s.i(x)), use(s.w))),
            i=nn.Linear(3, 4),
            w=nn.Parameter(torch.randn(4, 4)),
            o=nn.Linear(4, 1),
        ),
        (2, 3),
        i__weight__0="....",
        w__0="....",
        w__1="....",
        o__weight__1="....",
    )
case(
    "weight_read_elsewhere",
    Net(lambda s, x: s.o(s.i(x)) + s.i.weight.cumsum(1).sum(), i=nn.Linear(3, 4), o=nn.Linear(4, 1)),
    (2, 3),
    i__weight__0="....",
    o__weight__1="....",
)
case(
    "two_outputs",
    Net(lambda s, x: {"a": s.a(x), "b": s.b(s.a(x))}, a=conv(3, 2), b=conv(2, 1)),
    a__weight__0="..",
    b__weight__1="..",
)


@pytest.fixture(scope="module")
def graph():
    nets = nn.ModuleDict({name: net for name, (net, *_) in CASES.items()})
    together = Net(lambda s, *xs: [net(x) for net, x in zip(s.nets.values(), xs, strict=True)], nets=nets)
    return trace(together, tuple(torch.randn(shape) for _, shape, *_ in CASES.values()))


@pytest.mark.parametrize("name", CASES)
def test_units(graph, name):
    _, _, reason, patterns = CASES[name]
    units = {(a.name, a.axis): a.units.tolist() for a in (*graph.axes, *graph.buffers)}
    rename, shown = {-1: "."}, {}
    for key, pattern in patterns.items():
        tensor, _, axis = key.rpartition("__")
        got = units.get((f"nets.{name}.{tensor.replace('__', '.').lstrip('_')}", int(axis)), [-1] * len(pattern))
        shown[key] = "".join(rename.setdefault(unit, chr(96 + len(rename))) for unit in got)
    assert shown == patterns
    assert reason in " | ".join(text for text, _ in graph.pinned if f"(nets.{name}" in text)


def test_networks_side_by_side_share_no_unit(graph):
    owners = {}
    for axis in (*graph.axes, *graph.buffers):
        for unit in axis.units[axis.units >= 0].tolist():
            owners.setdefault(unit, set()).add(axis.name.split(".")[1])
    assert sorted(owners) == list(range(graph.num_units))
    assert all(len(names) == 1 for names in owners.values())


def test_roles(graph):
    roles = {(a.name, a.axis): a.role for a in graph.axes if a.name.startswith("nets.chain.")}
    assert roles == {
        ("nets.chain.0.weight", 0): "writer",
        ("nets.chain.0.bias", 0): "writer",
        ("nets.chain.1.weight", 0): "scale",
        ("nets.chain.1.bias", 0): "shift",
        ("nets.chain.3.weight", 1): "reader",
    }
    assert {b.name for b in graph.buffers if b.name.startswith("nets.chain.")} == {
        "nets.chain.1.running_mean",
        "nets.chain.1.running_var",
    }
    assert {a.role for a in graph.axes if a.name.endswith(".g")} == {"other", "bias"}


def test_tied_weights_have_one_name(graph):
    assert not any(a.name.startswith(("nets.tied.b.", "nets.two_names.3.")) for a in graph.axes)


def test_depthwise_readers_are_marked(graph):
    assert [r.depthwise for r in graph.readers if r.module.startswith("nets.depthwise.")] == [False, True, False]


def test_no_axis_without_a_unit(graph):
    assert all(bool((a.units >= 0).any()) for a in (*graph.axes, *graph.buffers))


def test_outputs_and_inputs_are_never_units():
    single = trace(nn.Linear(3, 4), torch.randn(2, 3))
    assert single.num_units == 0
    assert single.axes == ()
    assert single.unit_layer == ()

"""Data movement: splits, slices, shuffles, reshapes, and layers over channels that moved."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patterns.registry import DEATHS, Made, Net, chain, dead, image, kill, pattern, unread


@pattern(each=("together", "apart"))
def chunk_used_out_of_order(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        p, q = s.a(x).chunk(2, 1)
        return s.c(q) + s.d(p)

    net = Net(forward, a=nn.Conv2d(3, 8, 1), c=nn.Conv2d(4, 2, 1), d=nn.Conv2d(4, 2, 1))
    kill(net.a, (0, 4) if how == "together" else (0, 3, 6, 7))
    return net, image()


@pattern(each=("one", "both", "whole"), kept=("one",))
def chunk_into_unequal_survivors(how: str) -> Made:
    """`chunk` halves whatever it is given, so both halves must lose the same number."""

    def forward(s: Net, x: Tensor) -> Tensor:
        p, q = s.a(x).chunk(2, 1)
        return s.c(p) + s.d(q)

    net = Net(forward, a=nn.Linear(3, 8), c=nn.Linear(4, 2), d=nn.Linear(4, 2))
    kill(net.a, {"one": (0, 3), "both": (0, 1, 2, 5), "whole": range(4)}[how])
    return net, torch.randn(5, 3)


@pattern(each=("even", "uneven", "unread"), kept=("even", "uneven", "unread"))
def split_by_written_sizes(how: str) -> Made:
    """The sizes stand in the code: only a change of code could make them smaller."""

    def forward(s: Net, x: Tensor) -> Tensor:
        p, q, r = s.a(x).split([2, 5, 3], 1)
        return s.c(q) + s.d(p) * s.e(r)

    net = Net(forward, a=nn.Linear(3, 10), c=nn.Linear(5, 2), d=nn.Linear(2, 2), e=nn.Linear(3, 2))
    if how == "unread":
        unread(net.c, (0, 1))
    else:
        kill(net.a, (0, 2, 7) if how == "even" else (3, 4))
    return net, torch.randn(5, 3)


@pattern(each=("computed", "attribute", "uneven", "written"), kept=("written",))
def split_into_equal_pieces_by_several_sizes(how: str) -> Made:
    """Both lengths are one number, so both pieces must lose equally many channels."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = s.a(x)
        c = {"attribute": s.pieces, "written": 4}.get(how, h.shape[1] // 2)
        p, q = h.split((c, c), 1)
        return s.b(p) + s.c(q)

    net = Net(forward, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(4, 2, 1), c=nn.Conv2d(4, 2, 1), pieces=4)
    kill(net.a, (0, 1, 5) if how == "uneven" else (0, 1, 5, 6))
    return net, image()


@pattern(each=("attribute", "written"), kept=("attribute", "written"))
def split_by_sizes_that_the_module_states(how: str) -> Made:
    sizes = (lambda s: s.sizes) if how == "attribute" else (lambda s: 4)
    net = Net(lambda s, x: sum(torch.tanh(part) for part in s.a(x).split(sizes(s), 1)), a=nn.Linear(3, 8), sizes=4)
    model = chain(net, nn.Linear(4, 2))
    kill(net.a, (1, 5))
    return model, torch.randn(5, 3)


@pattern(each=("even", "odd", "both"))
def slices_of_every_second(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = s.a(x)
        return s.c(h[:, ::2]) + s.d(h[:, 1::2])

    net = Net(forward, a=nn.Conv2d(3, 8, 1), c=nn.Conv2d(4, 2, 1), d=nn.Conv2d(4, 2, 1))
    kill(net.a, {"even": (0, 4, 1, 3), "odd": (1, 3, 0, 6), "both": (2, 3)}[how])
    return net, image()


@pattern(each=("written", "computed"), kept=("written",))
def slices_of_halves(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = s.a(x)
        half = 4 if how == "written" else h.shape[1] // 2
        return s.c(h[:, :half]) + s.d(h[:, half:])

    net = Net(forward, a=nn.Conv2d(3, 8, 1), c=nn.Conv2d(4, 2, 1), d=nn.Conv2d(4, 2, 1))
    kill(net.a, (1, 2, 5, 7))
    return net, image()


@pattern()
def slices_that_leave_channels_out() -> Made:
    """Channels that no slice takes are not needed; the slice's end is open."""
    net = Net(lambda s, x: s.c(s.a(x)[:, 3:]), a=nn.Conv2d(3, 8, 1), c=nn.Conv2d(5, 2, 1))
    kill(net.a, (4, 6))
    return net, image()


@pattern(each=("flip", "roll", "index", "index-buffer", "transpose"), kept=("index", "index-buffer", "roll"))
def moved_channels(how: str) -> Made:
    moves = {
        "flip": lambda s, h: h.flip(1),
        "roll": lambda s, h: h.roll(3, 1),
        "index": lambda s, h: h[:, [7, 0, 2, 2, 5, 4, 3, 1]],
        "index-buffer": lambda s, h: h.index_select(1, s.order),
        "transpose": lambda s, h: h.transpose(1, 2).transpose(2, 3).movedim(-1, 1).transpose(2, 3),
    }
    net = Net(lambda s, x: s.c(moves[how](s, F.relu(s.a(x)))), a=nn.Conv2d(3, 8, 1), c=nn.Conv2d(8, 2, 1),
              order=torch.tensor([3, 1, 0, 2, 7, 6, 5, 4]))  # fmt: skip
    kill(net.a, (1, 2, 6))
    return net, image()


def shuffled(x: Tensor, groups: int) -> Tensor:
    batch, channels, *rest = x.shape
    return x.view(batch, groups, channels // groups, *rest).transpose(1, 2).reshape(batch, channels, *rest)


@pattern(each={"even": (0, 4), "offset": (0, 5), "uneven": (0, 2, 6)}, kept=("offset", "uneven"))
def channel_shuffle_by_view(*rows: int) -> Made:
    net = Net(lambda s, x: s.c(shuffled(F.relu(s.a(x)), 2)), a=nn.Conv2d(3, 8, 1), c=nn.Conv2d(8, 2, 1))
    kill(net.a, rows)
    return net, image()


@pattern()
def channel_shuffle_module() -> Made:
    net = chain(nn.Conv2d(3, 8, 1), nn.ChannelShuffle(2), nn.Conv2d(8, 2, 1))
    kill(net[0], (0, 4))
    return net, image()


@pattern()
def channel_shuffle_between_grouped_convolutions() -> Made:
    net = Net(lambda s, x: s.head(s.b(shuffled(F.relu(s.a(x)), 2))), a=nn.Conv2d(4, 8, 1, groups=2), b=nn.Conv2d(8, 8, 1, groups=2),
              head=nn.Conv2d(8, 2, 1))  # fmt: skip
    kill(net.a, (0, 1, 4, 5))
    kill(net.b, (1, 6))
    return net, image(4)


@pattern()
def unit_of_a_shufflenet() -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        p, q = s.stem(x).chunk(2, 1)
        return s.head(shuffled(torch.cat([p, F.relu(s.b(s.dw(F.relu(s.a(q)))))], 1), 2))

    net = Net(forward, stem=nn.Conv2d(3, 12, 1), a=nn.Conv2d(6, 6, 1), dw=nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
              b=nn.Conv2d(6, 6, 1), head=nn.Conv2d(12, 2, 1))  # fmt: skip
    kill(net.a, (0, 3))
    return net, image()


@pattern(each=("conv", "linear"))
def channels_last_and_flatten(how: str) -> Made:
    net = Net(
        lambda s, x: s.fc(F.relu(s.a(x)).permute(0, 2, 3, 1).flatten(1)), a=nn.Conv2d(3, 8, 3), fc=nn.Linear(8 * 16, 4)
    )
    if how == "conv":
        kill(net.a, (1, 2, 6), 0.3)
    else:
        unread(net.fc, [i for i in range(128) if i % 8 in (0, 5)])
    return net, image()


@pattern(each=("zero", "constant"))
def channels_last_linear(how: str) -> Made:
    net = Net(
        lambda s, x: s.b(F.gelu(s.a(s.stem(x).permute(0, 2, 3, 1)))).permute(0, 3, 1, 2),
        stem=nn.Conv2d(3, 6, 3),
        a=nn.Linear(6, 8),
        b=nn.Linear(8, 2),
    )
    dead(net.stem, net.a, (0, 4), how)
    dead(net.a, net.b, (3, 5), how)
    return net, image()


@pattern(each=("rest", "written", "batch-first"), kept=("written",))
def flatten_by_view(how: str) -> Made:
    shapes = {
        "rest": lambda h: (h.shape[0], -1),
        "written": lambda h: (-1, 128),
        "batch-first": lambda h: (len(h), h.shape[1] * 16),
    }
    net = Net(
        lambda s, x: s.fc((h := F.relu(s.a(x))).view(shapes[how](h))),
        a=nn.Conv2d(3, 8, 3),
        fc=nn.Linear(8 * 16, 4),
    )
    kill(net.a, (1, 2, 6))
    return net, image()


@pattern(each=("unflatten", "view"))
def vector_to_image(how: str) -> Made:
    """The decoder of an autoencoder: one channel is sixteen rows of the linear layer."""
    last = nn.Unflatten(1, (-1, 4, 4))
    net = Net(
        lambda s, x: s.conv(last(s.fc(x)) if how == "unflatten" else s.fc(x).view(len(x), -1, 4, 4)),
        fc=nn.Linear(5, 8 * 16),
        conv=nn.Conv2d(8, 2, 3),
    )
    kill(net.fc, range(32, 64), 0.0)
    kill(net.fc, range(96, 100))
    return net, torch.randn(3, 5)


@pattern(each=("blocks", "single"), kept=("single",))
def pixel_shuffle(how: str) -> Made:
    """One channel after the shuffle is four before it."""
    net = chain(nn.Conv2d(3, 12, 3), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(3, 2, 3))
    kill(net[0], range(4, 8) if how == "blocks" else (1, 6))
    return net, image()


@pattern(each=DEATHS)
def pixel_unshuffle(how: str) -> Made:
    net = chain(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.PixelUnshuffle(2), nn.Conv2d(24, 2, 1))
    if how == "unread":
        unread(net[3], [*range(4, 8), *range(20, 24)])
    else:
        kill(net[0], (1, 5), 0.4 if how == "constant" else 0)
    return net, image()


@pattern()
def space_to_depth_by_slices() -> Made:
    """The focus layer of YOLO."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.a(x))
        return s.b(torch.cat([h[..., ::2, ::2], h[..., 1::2, ::2], h[..., ::2, 1::2], h[..., 1::2, 1::2]], 1))

    net = Net(forward, a=nn.Conv2d(3, 6, 3), b=nn.Conv2d(24, 2, 1))
    kill(net.a, (1, 5), 0.4)
    return net, image()


@pattern()
def patch_merging() -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = s.stem(x).permute(0, 2, 3, 1)
        return s.reduce(torch.cat([h[:, 0::2, 0::2], h[:, 1::2, 0::2], h[:, 0::2, 1::2], h[:, 1::2, 1::2]], -1))

    net = Net(forward, stem=nn.Conv2d(3, 6, 1), reduce=nn.Linear(24, 4, bias=False))
    kill(net.stem, (1, 5))
    return net, image()


@pattern(each=("zero", "constant"), kept=("constant",))
def unfold(how: str) -> Made:
    net = Net(
        lambda s, x: s.fc(F.unfold(F.relu(s.a(x)), 3, padding=1).transpose(1, 2)),
        a=nn.Conv2d(3, 6, 1),
        fc=nn.Linear(54, 4),
    )
    dead(net.a, net.fc, (1, 5), how)
    return net, image()


@pattern()
def fold() -> Made:
    net = Net(
        lambda s, x: s.out(F.fold(s.fc(x).transpose(1, 2), (6, 6), 2, stride=2)),
        fc=nn.Linear(5, 16),
        out=nn.Conv2d(4, 2, 1),
    )
    kill(net.fc, range(4, 8))
    unread(net.out, (3,))
    return net, torch.randn(2, 9, 5)


@pattern()
def window_partition() -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        t = s.stem(x).permute(0, 2, 3, 1)
        t = t.view(b, h // 2, 2, w // 2, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, t.shape[-1])
        return s.b(F.gelu(s.a(t)))

    net = Net(forward, stem=nn.Conv2d(3, 6, 1), a=nn.Linear(6, 8), b=nn.Linear(8, 2))
    kill(net.stem, (1, 5), 0.2)
    kill(net.a, (0, 3), 0.2)
    return net, image()


@pattern(
    each=("stack-sum", "stack-first", "unbind", "expand", "repeat", "repeat-interleave"),
)
def new_axes(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        p, q = s.a(x), s.b(x)
        if how == "stack-sum":
            return s.c(torch.stack([p, q], 1).sum(1))
        if how == "stack-first":
            return s.c(torch.stack([p, q]).amax(0))
        if how == "unbind":
            first, second = torch.stack([p, q], 2).unbind(2)
            return s.c(first * second)
        if how == "expand":
            return s.c(p.unsqueeze(1).expand(-1, 3, -1) * q.unsqueeze(1))
        if how == "repeat":
            return s.d((p * q).repeat(1, 2))
        return s.d((p * q).repeat_interleave(2, 1))

    last = {"d": nn.Linear(16, 3)} if how.startswith("repeat") else {"c": nn.Linear(8, 3)}
    net = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(4, 8), **last)
    kill(net.a, (0, 5))
    kill(net.b, (0, 5))
    return net, torch.randn(5, 4)


@pattern(smaller=None)
def layer_beside_that_may_read_them() -> Made:
    """The example does not reach the last layer, whose inputs are twice as many: perhaps two copies of these."""
    net = Net(
        lambda s, x: s.c(s.a(x) * s.b(x)), a=nn.Linear(4, 8), b=nn.Linear(4, 8), c=nn.Linear(8, 3), d=nn.Linear(16, 3)
    )
    kill(net.a, (0, 5))
    kill(net.b, (0, 5))
    return net, torch.randn(5, 4)


@pattern(each=("same", "different"), kept=("different",))
def stack_interleaved_in_the_right_shape(how: str) -> Made:
    """The shapes fit whatever is removed; the order only if both lose the same channels."""
    net = Net(
        lambda s, x: s.c(torch.stack([s.a(x), s.b(x)], 2).flatten(1)),
        a=nn.Linear(4, 6),
        b=nn.Linear(4, 6),
        c=nn.Linear(12, 3),
    )
    kill(net.a, (0, 5))
    kill(net.b, (0, 5) if how == "same" else (1, 2))
    return net, torch.randn(5, 4)


@pattern(smaller=None)
def reshape_that_mixes_channels_and_positions() -> Made:
    net = Net(
        lambda s, x: s.c(s.a(x).view(len(x), 4, 8, 4).transpose(1, 2)), a=nn.Conv2d(3, 8, 3), c=nn.Conv2d(8, 2, 1)
    )
    kill(net.a, (1, 2))
    return net, image()


EQUATIONS = {
    "plain": "bchw,dc->bdhw",
    "transposed": "cd,bchw->bdhw",
    "moved": "bchw,dc->bhdw",
    "constant": "bchw,dc->bdhw",
    "outer": "bchw,dc->bdc",
    "positions": "bchw,wd->bchd",
}


@pattern(each={how: (how, equation) for how, equation in EQUATIONS.items()}, kept=("outer",))
def einsum_over_channels(how: str, equation: str) -> Made:
    """A matrix over one axis, whichever it is; it adds no bias, so it takes in no constant."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = torch.einsum(equation, *((s.mix, F.relu(s.a(x))) if how == "transposed" else (F.relu(s.a(x)), s.mix)))
        return s.c(h.transpose(1, 2) if how == "moved" else h.sum(2)[..., None, None] if how == "outer" else h)

    shape = {"transposed": (8, 6), "positions": (4, 3)}.get(how, (6, 8))
    net = Net(
        forward,
        a=nn.Conv2d(3, 8, 3),
        c=nn.Conv2d(8 if how == "positions" else 6, 2, 1),
        mix=nn.Parameter(torch.randn(shape)),
    )
    kill(net.a, (0, 5), 0.4 if how == "constant" else 0)
    with torch.no_grad():
        if how == "transposed":
            net.mix[:, 2] = 0
            net.mix[3] = 0
        elif how != "positions":
            net.mix[2] = 0
            if how != "constant":
                net.mix[:, 3] = 0
    return net, image()


@pattern(each=("linear", "matmul", "einsum", "linear-no-bias"), kept=("linear", "matmul", "einsum", "linear-no-bias"))
def weight_of_a_layer_without_its_bias(how: str) -> Made:
    """Code of the user's own reads a layer's weight: the layer's bias would not be added, so nothing folds into it."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.a(x))
        if how.startswith("linear"):
            return s.c(F.linear(h, s.b.weight).tanh())
        return s.c((h @ s.b.weight.t() if how == "matmul" else torch.einsum("bi,oi->bo", h, s.b.weight)).tanh())

    net = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 6, bias=how != "linear-no-bias"), c=nn.Linear(6, 3))
    kill(net.a, (0, 5), 0.4)
    return net, torch.randn(3, 4)


@pattern()
def einsum_of_two_features() -> Made:
    net = Net(
        lambda s, x: s.c(torch.einsum("bnc,bmc->bnm", s.a(x), s.b(x))),
        a=nn.Linear(4, 8),
        b=nn.Linear(4, 8),
        c=nn.Linear(5, 3),
    )
    kill(net.a, (0, 5))
    return net, torch.randn(2, 5, 4)


@pattern(each=("contracted", "row"))
def matmul_of_two_features(how: str) -> Made:
    net = Net(lambda s, x: s.c(s.a(x) @ s.b(x).transpose(1, 2) if how == "contracted" else s.a(x).transpose(1, 2) @ s.b(x)),
              a=nn.Linear(4, 8), b=nn.Linear(4, 8), c=nn.Linear(5 if how == "contracted" else 8, 3))  # fmt: skip
    kill(net.a, (0, 5))
    kill(net.b, (0, 5))
    return net, torch.randn(2, 5, 4)


@pattern(smaller=None)
def outer_product_flattened() -> Made:
    """Bilinear pooling: a channel dead on one side empties a row of products."""
    net = Net(
        lambda s, x: s.c((s.a(x).unsqueeze(2) * s.b(x).unsqueeze(1)).flatten(1)),
        a=nn.Linear(4, 5),
        b=nn.Linear(4, 6),
        c=nn.Linear(30, 3),
    )
    kill(net.a, (0, 3))
    kill(net.b, (1,))
    return net, torch.randn(4, 4)


@pattern(each=("zero", "constant", "unread", "rows", "same"), kept=("constant",))
def bilinear_layer(how: str) -> Made:
    """Of two inputs: a constant in one of them scales the other, which is no bias."""
    net = Net(
        lambda s, x: s.c(F.relu(s.mix(F.relu(s.a(x)), F.relu(s.a(x)) if how == "same" else s.b(x)))),
        a=nn.Linear(4, 5),
        b=nn.Linear(4, 6) if how != "same" else None,
        mix=nn.Bilinear(5, 5 if how == "same" else 6, 4),
        c=nn.Linear(4, 2),
    )
    with torch.no_grad():
        if how == "unread":
            net.mix.weight[:, [0, 3]] = 0
            net.mix.weight[:, :, 1] = 0
        elif how == "rows":
            kill(net.mix, (1,), 0.4)
        else:
            kill(net.a, (0, 3), 0.4 if how == "constant" else 0)
            if net.b is not None:
                kill(net.b, (1,), 0.4 if how == "constant" else 0)
    return net, torch.randn(4, 4)


@pattern(each=("position", "channel"))
def token_mixing(how: str) -> Made:
    """MLP-Mixer: one layer over positions, one over channels."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = s.stem(x)
        h = h + s.t2(F.gelu(s.t1(h.transpose(1, 2)))).transpose(1, 2)
        return s.head(h + s.c2(F.gelu(s.c1(h))))

    net = Net(
        forward,
        stem=nn.Linear(4, 8),
        t1=nn.Linear(5, 6),
        t2=nn.Linear(6, 5),
        c1=nn.Linear(8, 7),
        c2=nn.Linear(7, 8),
        head=nn.Linear(8, 3),
    )
    kill(*((net.t1, (0, 3)) if how == "position" else (net.c1, (0, 3))), 0.2)
    return net, torch.randn(2, 5, 4)


@pattern()
def graph_convolution() -> Made:
    net = Net(lambda s, x, adjacency: s.b(adjacency @ F.relu(s.a(adjacency @ x))), a=nn.Linear(4, 8), b=nn.Linear(8, 3))
    kill(net.a, (0, 5))
    return net, (torch.randn(2, 5, 4), torch.rand(2, 5, 5))


@pattern()
def sorted_positions() -> Made:
    net = Net(lambda s, x: s.b(F.relu(s.a(x)).sort(1).values), a=nn.Linear(4, 8), b=nn.Linear(8, 3))
    kill(net.a, (0, 5))
    return net, torch.randn(2, 5, 4)


@pattern()
def running_sum_over_positions() -> Made:
    net = Net(lambda s, x: s.b(F.relu(s.a(x)).cumsum(1)), a=nn.Linear(4, 8), b=nn.Linear(8, 3))
    kill(net.a, (0, 5))
    return net, torch.randn(2, 5, 4)


@pattern(each=("gather", "grid-sample", "masked-fill"))
def positions_chosen_by_data(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.a(x))
        if how == "gather":
            best = x.sum(1).flatten(1).argmax(1)
            return s.b(h).flatten(2).gather(2, best[:, None, None].expand(-1, 2, 1))
        if how == "grid-sample":
            return s.b(F.grid_sample(h, x[:, :2].movedim(1, -1).tanh(), align_corners=False))
        return s.b(h.masked_fill(x[:, :1] > 0, 0.0))

    net = Net(forward, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1))
    kill(net.a, (0, 5))
    return net, image()


@pattern(smaller=None)
def best_of_the_channels() -> Made:
    """Which channel is the largest: its number is the output."""
    net = Net(
        lambda s, x: (s.b(h := torch.tanh(s.a(x))), h.argmax(1), h.topk(2, 1).values),
        a=nn.Linear(4, 8),
        b=nn.Linear(8, 3),
    )
    kill(net.a, (0, 5))
    return net, torch.randn(5, 4)

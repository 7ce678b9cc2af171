"""What stays where channels lie on several axes: which places are kept, and in which order code meets them again."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patterns.registry import Made, Net, chain, image, kill, pattern


@pattern(each={"paired": ((0, 3), (0, 3)), "in-order": ((1, 2, 4), (0, 1, 4)), "crossed": ((1, 2, 3), (0, 1, 4))})
def stacked_and_interleaved(first: tuple[int, ...], second: tuple[int, ...]) -> Made:
    """a0, b0, a1, b1 ...: what is left of each is paired anew, which may be another order than that of the columns."""

    def forward(s: Net, x: Tensor) -> Tensor:
        return s.head(torch.stack([F.relu(s.a(x)), F.relu(s.b(x))], 2).flatten(1, 2))

    net = Net(forward, a=nn.Conv2d(3, 5, 3), b=nn.Conv2d(3, 5, 3), head=nn.Conv2d(10, 2, 1))
    kill(net.a, first)
    kill(net.b, second)
    return net, image()


@pattern(each={"same-places": (1, 2, 5, 6), "one-each": (1, 2, 3, 4, 6, 7), "crossed": (1, 2, 4, 7)}, kept=("crossed",))
def shuffled_halves_of_other_places(*rows: int) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.a(x))
        h = h.view(h.shape[0], 2, h.shape[1] // 2, *h.shape[2:]).transpose(1, 2).reshape(h.shape)
        return s.b(h)

    net = Net(forward, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 3, 1))
    kill(net.a, rows)
    return net, image()


@pattern(each={"whole": (4, 5, 6, 7), "one-position": (1, 5, 9), "mixed": (0, 1, 2, 3, 6)}, kept=("one-position",))
def pixels_read_one_by_one(*rows: int) -> Made:
    """Four channels become one at four positions, which a linear layer reads apart."""
    net = chain(nn.Conv2d(3, 12, 3), nn.PixelShuffle(2), nn.ReLU(), nn.Flatten(), nn.Linear(192, 3))
    kill(net[0], rows)
    return net, image()


@pattern(each={"q": ((2, 3, 4, 5, 6), (3, 7), (3, 7)), "v": ((3, 6), (3, 5), (0, 1, 2, 5)), "one-head": ((0, 7), (2, 5), (4, 5, 6, 7))})  # fmt: skip
def heads_that_keep_unequal_dims(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...]) -> Made:
    """Two heads of four: none may take what the other one leaves."""
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    net = Net(lambda s, x: s.head(x + s.attention(x, x, x)[0]), attention=attention, head=nn.Linear(8, 3))
    with torch.no_grad():
        for part, rows in enumerate((q, k, v)):
            for tensor in (attention.in_proj_weight, attention.in_proj_bias):
                tensor[[8 * part + row for row in rows]] = 0
    return net, torch.randn(2, 5, 8)


@pattern()
def heads_of_which_one_dim_is_left() -> Made:
    """Of queries, keys and values only a value is alive, in the second head: the others are kept beside it there."""

    def forward(s: Net, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (s.heads, -1)).transpose(1, 2) for t in s.qkv(x).chunk(3, -1))
        return s.out(F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2))

    net = Net(forward, heads=2, qkv=nn.Linear(4, 18), out=nn.Linear(6, 3))
    kill(net.qkv, [row for row in range(18) if row != 16])
    return net, torch.randn(2, 5, 4)


@pattern(each=("first", "both"))
def encoder_that_leaves_padding_out(how: str) -> Made:
    """Torch's encoder hands sequences of several lengths on as one nested tensor."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2)

    def forward(s: Net, x: Tensor, padding: Tensor) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, that nested tensors are a prototype
            return s.head(s.encoder(x, src_key_padding_mask=padding))

    net = Net(forward, encoder=encoder, head=nn.Linear(8, 3))
    with torch.no_grad():
        for place in (0, 1) if how == "both" else (0,):
            for tensor in (
                encoder.layers[place].self_attn.in_proj_weight,
                encoder.layers[place].self_attn.in_proj_bias,
            ):
                tensor[20:24] = 0
    return net, (torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2]))


@pattern(each={"one-group": (2, 3, 4, 5, 6, 7, 0), "one-of-each": (0, 2, 5, 6), "uneven": (0, 2, 3)})
def depthwise_multiplier_unequal(*rows: int) -> Made:
    """Two output channels for each input channel are a group: groups keep equally many, the last one any."""
    net = chain(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 4, 1))
    kill(net[2], rows)
    if len(rows) == 7:
        kill(net[0], (1, 2, 3))
    return net, image()


@pattern()
def piece_of_which_nothing_is_left() -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = F.relu(s.a(x))
        first, rest = h.split([2, h.shape[1] - 2], 1)
        return s.head(torch.cat([rest.sigmoid() * 2 - 1, first], 1))

    net = Net(forward, a=nn.Conv2d(3, 6, 3), head=nn.Conv2d(6, 2, 1))
    kill(net.a, (2, 3, 4, 5))
    return net, image()


@pattern(each=("layer", "rms", "group"))
def features_that_a_normalisation_makes_constant(how: str) -> Made:
    """The norm reads all channels; where its scale is zero what leaves it is its shift, and so is what that leads to."""
    norm = {"layer": nn.LayerNorm(8), "rms": nn.RMSNorm(8), "group": nn.GroupNorm(2, 8)}[how]
    net = chain(nn.Linear(4, 8), norm, nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    kill(norm, (0, 1, 2, 3), 0.5)
    with torch.no_grad():
        net[2].weight[[1, 4], 4:] = 0  # these read constants alone
    return net, torch.randn(6, 4)

"""Attention: whole heads, dims of values, dims of queries and keys, in the ways it is written."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patterns.registry import DEATHS, Made, Net, dead, image, kill, pattern, unread

HEADS, WIDTH = 4, 3  # four heads of three dims: twelve channels
PARTS = {
    "head": {"v": (3, 4, 5)},
    "head-everything": {"q": (3, 4, 5), "k": (3, 4, 5), "v": (3, 4, 5)},
    "v-dims": {"v": (1, 4, 7, 10)},
    "v-dims-unequal": {"v": (0, 1, 6)},
    "qk-dims": {"q": (1, 4, 7, 10), "k": (1, 4, 7, 10)},
    "q-dims": {"q": (1, 4, 7, 10)},
}
# A head's width is written in both layouts below, so only whole heads can go.
KEPT = [f"{how}-{part}" for how in ("fused", "written") for part in PARTS if not part.startswith("head")]


def kill_parts(layers: dict[str, tuple[nn.Linear, int]], parts: dict[str, tuple[int, ...]]) -> None:
    for name, rows in parts.items():
        layer, offset = layers[name]
        kill(layer, [offset + row for row in rows])


def attend(q: Tensor, k: Tensor, v: Tensor, how: str) -> Tensor:
    if how == "fused":
        return F.scaled_dot_product_attention(q, k, v)
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


@pattern(each={f"{how}-{part}": (how, part) for how in ("fused", "written") for part in PARTS}, kept=KEPT)
def one_projection(how: str, part: str) -> Made:
    """`qkv` in one layer, as in vision transformers; the view leaves the number of heads open."""

    def forward(s: Net, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = s.qkv(x).view(b, n, 3, -1, s.width).permute(2, 0, 3, 1, 4)
        return s.out(attend(q, k, v, how).transpose(1, 2).reshape(b, n, -1))

    net = Net(forward, qkv=nn.Linear(6, 3 * HEADS * WIDTH), out=nn.Linear(HEADS * WIDTH, 5), width=WIDTH)
    kill_parts({"q": (net.qkv, 0), "k": (net.qkv, 12), "v": (net.qkv, 24)}, PARTS[part])
    return net, torch.randn(2, 5, 6)


@pattern(each={f"{how}-{part}": (how, part) for how in ("fused", "written") for part in PARTS}, kept=KEPT)
def three_projections(how: str, part: str) -> Made:
    """Separate layers; the width of a head is what the module states."""

    def forward(s: Net, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (-1, s.width)).transpose(1, 2) for layer in (s.q, s.k, s.v))
        return s.out(attend(q, k, v, how).transpose(1, 2).flatten(2))

    net = Net(forward, q=nn.Linear(6, 12), k=nn.Linear(6, 12), v=nn.Linear(6, 12), out=nn.Linear(12, 5), width=WIDTH)
    kill_parts({"q": (net.q, 0), "k": (net.k, 0), "v": (net.v, 0)}, PARTS[part])
    return net, torch.randn(2, 5, 6)


@pattern(each=("fused", "written"), smaller=None)
def dims_of_all_heads(how: str) -> Made:
    """The number of heads is written; a head that loses a dim of its queries and keys scales them by another root."""

    def forward(s: Net, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = s.qkv(x).view(b, n, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        return s.out(attend(q, k, v, how).transpose(1, 2).reshape(b, n, -1))

    net = Net(forward, qkv=nn.Linear(6, 3 * HEADS * WIDTH), out=nn.Linear(HEADS * WIDTH, 5))
    kill(net.qkv, range(1, 36, 3))
    return net, torch.randn(2, 5, 6)


@pattern(each={"v-dims": True, "head": False}, kept=("head",))
def heads_by_number(dims: bool) -> Made:
    """The number of heads is written, the width is what is left; the values may have a width of their own."""

    def forward(s: Net, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (layer(x).view(b, n, 4, -1).transpose(1, 2) for layer in (s.q, s.k, s.v))
        return s.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    net = Net(forward, q=nn.Linear(6, 12), k=nn.Linear(6, 12), v=nn.Linear(6, 12), out=nn.Linear(12, 5))
    kill(net.v, (1, 4, 7, 10) if dims else (3, 4, 5))
    return net, torch.randn(2, 5, 6)


@pattern(each=("unread", "qk-scaled-by-a-constant", "v-constant"), kept=("v-constant",))
def three_projections_more(how: str) -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (layer(x).view(b, n, 4, -1).transpose(1, 2) for layer in (s.q, s.k, s.v))
        return s.out(F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2))

    net = Net(forward, q=nn.Linear(6, 12), k=nn.Linear(6, 12), v=nn.Linear(6, 12), out=nn.Linear(12, 5))
    if how == "unread":
        unread(net.out, (1, 4, 7, 10))
    elif how == "v-constant":
        kill(net.v, (1, 4, 7, 10), 0.4)
    else:
        kill(net.q, (1, 4, 7, 10))
        kill(net.k, (1, 4, 7, 10), 0.2)
    return net, torch.randn(2, 5, 6)


@pattern(each=DEATHS, kept=("constant",))
def single_head(how: str) -> Made:
    net = Net(
        lambda s, x: s.out(F.scaled_dot_product_attention(s.q(x), s.k(x), s.v(x))),
        q=nn.Linear(6, 8),
        k=nn.Linear(6, 8),
        v=nn.Linear(6, 7),
        out=nn.Linear(7, 5),
    )
    dead(net.v, net.out, (0, 5), how)
    return net, torch.randn(2, 5, 6)


@pattern(each=("q", "v"))
def cross_attention(how: str) -> Made:
    def forward(s: Net, x: Tensor, y: Tensor) -> Tensor:
        h = F.gelu(s.stem(x))
        q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in (s.q(h), s.k(y), s.v(y)))
        return s.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    net = Net(
        forward, stem=nn.Linear(6, 8), q=nn.Linear(8, 12), k=nn.Linear(7, 12), v=nn.Linear(7, 12), out=nn.Linear(12, 5)
    )
    kill(*((net.stem, (0, 5)) if how == "q" else (net.v, (1, 4, 7, 10))))
    return net, (torch.randn(2, 5, 6), torch.randn(2, 4, 7))


@pattern(each=("v-dims", "kv-head", "q-heads", "whole-group"), kept=("q-heads",))
def grouped_queries(how: str) -> Made:
    """Two heads of keys and values for four heads of queries."""

    def forward(s: Net, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (-1, WIDTH)).transpose(1, 2) for layer in (s.q, s.k, s.v))
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
        return s.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def by_number(s: Net, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (n, -1)).transpose(1, 2) for layer, n in ((s.q, 4), (s.k, 2), (s.v, 2)))
        return s.out(
            F.scaled_dot_product_attention(q, *(t.repeat_interleave(2, 1) for t in (k, v))).transpose(1, 2).flatten(2)
        )

    net = Net(
        by_number if how == "v-dims" else forward,
        q=nn.Linear(6, 12),
        k=nn.Linear(6, 6),
        v=nn.Linear(6, 6),
        out=nn.Linear(12, 5),
    )
    if how == "v-dims":
        kill(net.v, (1, 4))
    elif how == "q-heads":
        unread(net.out, (3, 4, 5))
    else:
        kill(net.v, (3, 4, 5))
        if how == "whole-group":
            unread(net.out, range(6, 12))
    return net, torch.randn(2, 5, 6)


@pattern(each=("v-dims", "v-head", "kv-head", "q-heads", "whole-group", "qk-dims"), kept=("q-heads", "v-head"))
def grouped_queries_by_flag(how: str) -> Made:
    """The heads of keys and values are repeated inside the operator, as language models do it."""

    def forward(s: Net, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (n, -1)).transpose(1, 2) for layer, n in ((s.q, s.nq), (s.k, s.nk), (s.v, s.nk))
        )
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5, enable_gqa=True)
        return s.out(h.transpose(1, 2).flatten(2))

    net = Net(forward, q=nn.Linear(6, 12), k=nn.Linear(6, 6), v=nn.Linear(6, 6), out=nn.Linear(12, 5), nq=4, nk=2)
    if how == "v-dims":
        kill(net.v, (1, 4))
    elif how == "qk-dims":
        kill(net.k, (1, 4))
    elif how == "q-heads":
        unread(net.out, (3, 4, 5))
    else:
        kill(net.v, (3, 4, 5))
        if how == "kv-head":
            kill(net.k, (3, 4, 5))
        if how == "whole-group":
            unread(net.out, range(6, 12))
    return net, torch.randn(2, 5, 6)


def rotated(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * torch.logspace(0, -1, half, device=x.device)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


@pattern(each={"head": (4, 5, 6, 7), "v-dims": (1, 5, 9)})
def rotary_positions(*rows: int) -> Made:
    """The angles are made from the width of queries and keys; that of the values is free."""

    def forward(s: Net, x: Tensor) -> Tensor:
        q, k = (layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (s.q, s.k))
        v = s.v(x).unflatten(-1, (q.shape[1], -1)).transpose(1, 2)
        return s.out(
            F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True).transpose(1, 2).flatten(2)
        )

    net = Net(forward, q=nn.Linear(6, 12), k=nn.Linear(6, 12), v=nn.Linear(6, 12), out=nn.Linear(12, 5))
    kill(net.v, rows)
    return net, torch.randn(2, 5, 6)


@pattern(each=("head", "v-dims", "qk-dims", "v-dims-unequal", "input", "beside"), kept=("v-dims-unequal",))
def multihead_attention_module(how: str) -> Made:
    """PyTorch's own: it states its widths and asserts them."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = s.stem(x)
        h = h + s.attention(h, h, h, need_weights=False)[0]
        return s.head(h + s.b(F.gelu(s.a(h))))

    net = Net(
        forward,
        stem=nn.Linear(6, 12),
        attention=nn.MultiheadAttention(12, 4, batch_first=True),
        a=nn.Linear(12, 9),
        b=nn.Linear(9, 12),
        head=nn.Linear(12, 3),
    )
    with torch.no_grad():
        if how in PARTS:
            rows = ["qkv".index(name) * 12 + row for name, part in PARTS[how].items() for row in part]
            net.attention.in_proj_weight[rows] = 0
            net.attention.in_proj_bias[rows] = 0
        elif how == "input":
            kill(net.stem, (0, 5))
            kill(net.attention.out_proj, (0, 5))
            kill(net.b, (0, 5))
        else:
            kill(net.a, (0, 5, 7), 0.3)
    return net, torch.randn(2, 5, 6)


WAYS = (
    "weights-unused", "unread", "weights", "weights-of-heads", "weights-v-dims", "masks", "mask-of-heads", "causal", "causal-and-padded", "unbatched", "time-first",
    "zero-attention", "zero-attention-weights", "key-and-value-biases", "no-bias", "one-input", "subclass",
)  # fmt: skip


KEPT_WAYS = (
    "weights",
    "weights-of-heads",
    "zero-attention",
    "zero-attention-weights",
    "key-and-value-biases",
    "subclass",
)


@pattern(each=WAYS, kept=KEPT_WAYS)
def calls_of_multihead_attention(how: str) -> Made:
    """Of other queries than keys and values, each with features of their own; a head is dead.

    The mean of the weights, and a list of them, is over all heads: no head can go where they are used.
    """
    kind = type("Own", (nn.MultiheadAttention,), {}) if how == "subclass" else nn.MultiheadAttention
    options = {} if how == "one-input" else {"kdim": 5, "vdim": 7}
    layer = kind(
        12,
        4,
        dropout=0.1,
        bias=how != "no-bias",
        add_bias_kv=how == "key-and-value-biases",
        add_zero_attn=how.startswith("zero-attention"),
        batch_first=how not in ("time-first", "unbatched"),
        **options,
    )

    def forward(s: Net, x: Tensor, y: Tensor, z: Tensor, *masks: Tensor) -> Any:
        call: dict[str, Any] = {"need_weights": "weights" in how, "average_attn_weights": how == "weights"}
        time = 0 if how in ("time-first", "unbatched") else 1
        if "padded" in how or how == "masks":
            call["key_padding_mask"] = masks[0]
        if "causal" in how or how == "masks":
            call["attn_mask"] = torch.ones(x.shape[time], y.shape[time], dtype=torch.bool, device=x.device).triu(1)
            call["is_causal"] = "causal" in how
        if how == "mask-of-heads":
            call["attn_mask"] = masks[0]
        out, weights = s.layer(s.q(x), y, z, **call) if how != "one-input" else s.layer(*[s.q(x)] * 3, **call)
        return (s.head(out), weights) if how in ("weights", "weights-of-heads", "weights-v-dims") else s.head(out)

    net = Net(forward, q=nn.Linear(6, 12), layer=layer, head=nn.Linear(12, 3))
    rows = [1, 4, 7, 10] if how == "weights-v-dims" else [3, 4, 5]
    with torch.no_grad():
        if how == "unread":
            unread(layer.out_proj, rows)
        elif how == "one-input":
            layer.in_proj_weight[[24 + row for row in rows]] = 0
            layer.in_proj_bias[[24 + row for row in rows]] = 0
        else:
            layer.v_proj_weight[rows] = 0
            if layer.in_proj_bias is not None:
                layer.in_proj_bias[[24 + row for row in rows]] = 0
    inputs = [torch.randn(2, 5, 6), torch.randn(2, 4, 5), torch.randn(2, 4, 7)]
    if how == "time-first":
        inputs = [t.transpose(0, 1) for t in inputs]
    elif how == "unbatched":
        inputs = [t[0] for t in inputs]
    elif how == "mask-of-heads":
        inputs.append(torch.randn(8, 5, 4))
    elif "padded" in how or how == "masks":
        inputs.append(torch.tensor([[False, False, False, True], [False, True, False, False]]))
    return net, tuple(inputs)


@pattern(each=("feed-forward", "attention", "both-branches"))
def transformer_encoder_layer(how: str) -> Made:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=how == "both-branches")
    net = Net(lambda s, x: s.head(s.layer(s.stem(x))), stem=nn.Linear(4, 8), layer=layer, head=nn.Linear(8, 3))
    if how == "attention":
        with torch.no_grad():
            layer.self_attn.in_proj_weight[20:24] = 0
            layer.self_attn.in_proj_bias[20:24] = 0
    else:
        kill(layer.linear1, (0, 5, 7), 0.3)
    if how == "both-branches":
        kill(layer.linear2, range(8))
        kill(layer.self_attn.out_proj, range(8))
    return net, torch.randn(2, 5, 4)


@pattern(each=("first", "second", "both", "padded"))
def transformer_encoder(how: str) -> Made:
    """Torch's fused form of a whole layer reads the dense tensors: it must not run where heads are gone."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(s: Net, x: Tensor, *masks: Tensor) -> Tensor:
        return s.head(s.encoder(x, src_key_padding_mask=masks[0] if masks else None))

    net = Net(forward, encoder=encoder, head=nn.Linear(8, 3))
    with torch.no_grad():
        for place in (0, 1) if how in ("both", "padded") else (int(how == "second"),):
            attention = encoder.layers[place].self_attn
            attention.in_proj_weight[20:24] = 0
            attention.in_proj_bias[20:24] = 0
    padding = (torch.tensor([[False] * 5, [False] * 4 + [True]]),) if how == "padded" else ()
    return net, (torch.randn(2, 5, 8), *padding)


@pattern(each=("feed-forward", "self-attention", "cross-attention"))
def transformer_decoder_layer(how: str) -> Made:
    layer = nn.TransformerDecoderLayer(8, 2, 12, batch_first=True)
    net = Net(lambda s, x, y: s.head(s.layer(x, y)), layer=layer, head=nn.Linear(8, 3))
    if how == "feed-forward":
        kill(layer.linear1, (0, 5, 7), 0.3)
    else:
        attention = layer.self_attn if how == "self-attention" else layer.multihead_attn
        with torch.no_grad():
            attention.in_proj_weight[20:24] = 0
            attention.in_proj_bias[20:24] = 0
    return net, (torch.randn(2, 5, 8), torch.randn(2, 4, 8))


@pattern()
def dead_attention_branch() -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        h = s.stem(x)
        q, k, v = s.qkv(s.norm(h)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        h = h + s.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return s.head(h)

    net = Net(
        forward,
        stem=nn.Linear(6, 8),
        norm=nn.LayerNorm(8),
        qkv=nn.Linear(8, 36),
        out=nn.Linear(12, 8),
        head=nn.Linear(8, 3),
    )
    kill(net.out, range(8), 0.2)
    return net, torch.randn(2, 5, 6)


@pattern(each=("q", "v"))
def attention_over_positions_of_an_image(how: str) -> Made:
    """The self-attention of SAGAN: one head, convolutions, and a learned weight of the branch."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = s.stem(x)
        q, k, v = (layer(h).flatten(2) for layer in (s.q, s.k, s.v))
        attention = (q.transpose(1, 2) @ k).softmax(-1)
        return s.head(h + s.gamma * s.out((v @ attention.transpose(1, 2)).unflatten(2, h.shape[2:])))

    net = Net(forward, stem=nn.Conv2d(3, 8, 1), q=nn.Conv2d(8, 4, 1), k=nn.Conv2d(8, 4, 1), v=nn.Conv2d(8, 6, 1), out=nn.Conv2d(6, 8, 1), head=nn.Conv2d(8, 2, 1),
              gamma=nn.Parameter(torch.tensor([0.7])))  # fmt: skip
    if how == "q":
        kill(net.q, (1,))
        kill(net.k, (1,))
    else:
        kill(net.v, (0, 3))
    return net, image(size=4)


@pattern()
def additive_attention() -> Made:
    net = Net(lambda s, x, y: s.c((s.score(torch.tanh(s.a(x)[:, :, None] + s.b(y)[:, None])).squeeze(-1).softmax(-1)) @ s.v(y)),
              a=nn.Linear(6, 8), b=nn.Linear(5, 8), score=nn.Linear(8, 1), v=nn.Linear(5, 7), c=nn.Linear(7, 3))  # fmt: skip
    kill(net.a, (0, 5))
    kill(net.b, (0, 5))
    kill(net.v, (1, 4), 0.2)
    return net, (torch.randn(2, 4, 6), torch.randn(2, 5, 5))


@pattern(smaller=None)
def attention_over_channels() -> Made:
    """XCiT: channels attend to channels."""

    def forward(s: Net, x: Tensor) -> Tensor:
        q, k, v = (F.normalize(t, dim=-1) for t in s.qkv(x).transpose(1, 2).chunk(3, 1))
        return s.out(((q @ k.transpose(1, 2)).softmax(-1) @ v).transpose(1, 2))

    net = Net(forward, qkv=nn.Linear(6, 24), out=nn.Linear(8, 3))
    kill(net.qkv, (0, 8, 16))
    return net, torch.randn(2, 5, 6)


@pattern()
def class_token_and_positions() -> Made:
    def forward(s: Net, x: Tensor) -> Tensor:
        t = s.stem(x).flatten(2).transpose(1, 2)
        t = torch.cat([s.token.expand(len(x), -1, -1), t], 1) + s.position
        return s.head((t + s.b(F.gelu(s.a(t))))[:, 0] + t.mean(1))

    net = Net(forward, stem=nn.Conv2d(3, 8, 2, 2), token=nn.Parameter(torch.randn(1, 1, 8)), position=nn.Parameter(torch.randn(1, 10, 8)),
              a=nn.Linear(8, 6), b=nn.Linear(6, 8), head=nn.Linear(8, 3))  # fmt: skip
    with torch.no_grad():
        for tensor in (net.token, net.position):
            tensor[..., [0, 5]] = 0
    kill(net.stem, (0, 5))
    kill(net.b, (0, 5))
    kill(net.a, (1,))
    return net, image()


@pattern(each=("experts", "dims"), kept=("experts",))
def mixture_of_experts(how: str) -> Made:
    """Weights of all experts in one tensor."""

    def forward(s: Net, x: Tensor) -> Tensor:
        h = torch.relu(torch.einsum("bi,eio->beo", x, s.up))
        return torch.einsum("beo,eoc,be->bc", h, s.down, s.gate(x).softmax(-1))

    net = Net(
        forward, up=nn.Parameter(torch.randn(3, 4, 6)), down=nn.Parameter(torch.randn(3, 6, 2)), gate=nn.Linear(4, 3)
    )
    with torch.no_grad():
        if how == "experts":
            net.up[1] = 0
        else:
            net.up[:, :, [0, 4]] = 0
    return net, torch.randn(5, 4)

"""Each rule of the label pass by its name: the smallest program that asks it, and the units that must come of it.

A pattern has one letter per position of an axis: equal letters are one unit, "." is never removed. All programs are
traced at once, side by side: one export is much faster than forty.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_prune.graph import ChannelGraph, trace
from ssl_prune.graph.export.program import module_of
from ssl_prune.graph.labels import rule_registry

aten = torch.ops.aten
IMAGE, TOKENS = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 3)


class Program(nn.Module):
    """`first`, a function of what it wrote, `last`."""

    def __init__(self, first: nn.Module, function: Callable[..., Any], last: nn.Module, **members: Any) -> None:
        super().__init__()
        self.first, self.function, self.last = first, function, last
        for name, member in members.items():
            buffer = isinstance(member, Tensor) and not isinstance(member, nn.Parameter)
            self.register_buffer(name, member) if buffer else setattr(self, name, member)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self, self.first(x)))


Case = tuple[nn.Module, Tensor, dict[str, str]]


def image(function: Callable[..., Any], written: str, read: str, last: Any = nn.Conv2d, **more: Any) -> Case:
    """Something between two convolutions; `more` are members, and units of theirs as name__axis."""
    members = {name: member for name, member in more.items() if not isinstance(member, str)}
    net = Program(nn.Conv2d(3, len(written), 1), function, last(len(read), 1, 1), **members)
    named = {name: pattern for name, pattern in more.items() if isinstance(pattern, str)}
    return net, IMAGE, {"first__weight__0": written, "first__bias__0": written, "last__weight__1": read, **named}


def layer(module: nn.Module, written: str, read: str, **more: str) -> Case:
    return image(lambda s, x: s.own(x), written, read, own=module, **{f"own__{k}": v for k, v in more.items()})


def tokens(function: Callable[..., Any], **more: Any) -> Case:
    """Something of projections of tokens, each with its units, before a last one of what is as wide; and members."""
    members = {name: member for name, member in more.items() if not isinstance(member, str)}
    patterns = {name: units for name, units in more.items() if isinstance(units, str)}
    own = [name for name in patterns if len(name) == 1]
    net = Program(nn.Identity(), function, nn.Linear(4, 1), **members, **{name: nn.Linear(3, 4) for name in own})
    return net, TOKENS, {f"{name}__weight__0" if name in own else name: units for name, units in patterns.items()}


def of_indices(table: nn.Module) -> Case:
    net = Program(table, lambda s, x: x, nn.Linear(4, 1))
    return (
        net,
        torch.randint(0, 5, (2, 3)),
        {"first__weight__0": ".....", "first__weight__1": "abcd", "last__weight__1": "abcd"},
    )


def rests(module: nn.Module, function: Callable[..., Any], gates: int, names: str) -> Case:
    net = Program(nn.Linear(3, 2), function, nn.Linear(4, 1), own=module)
    hidden = {f"own__weight_ih{names}__0": "abcd" * gates, f"own__weight_hh{names}__1": "abcd"}
    return (
        net,
        TOKENS,
        {**hidden, f"own__weight_ih{names}__1": "ef", "first__weight__0": "ef", "last__weight__1": "abcd"},
    )


GRID, ORDER = torch.rand(2, 4, 4, 2), torch.tensor([1, 0, 3, 2])
# torch.export of this version writes it as another operator, which `batch_norm` serves.
REWRITTEN = {"_batch_norm"}

# Name of the rule, perhaps with a number -> a program, its input, and units of its parameters.
CASES: dict[str, Case] = {
    "convolution": layer(nn.Conv2d(4, 2, 3), "abcd", "ef", weight__1="abcd", weight__0="ef", bias__0="ef"),
    "convolution 2": layer(nn.Conv2d(4, 4, 3, groups=4), "abcd", "abcd", weight__0="abcd", weight__1="."),
    "transposed_convolution": layer(nn.ConvTranspose2d(4, 2, 2), "abcd", "ef", weight__0="abcd", weight__1="ef"),
    "linear": tokens(lambda s, x: torch.relu(s.a(x)), a="abcd", last__weight__1="abcd", last__weight__0="."),
    "embedding": of_indices(nn.Embedding(5, 4)),
    "embedding_bag": of_indices(nn.EmbeddingBag(5, 4)),
    "add_product": (
        Program(nn.Linear(3, 4), lambda s, x: torch.addmm(s.bias, x.flatten(0, 1), s.weight), nn.Linear(2, 1),
                weight=nn.Parameter(torch.randn(4, 2)), bias=nn.Parameter(torch.randn(2))),
        TOKENS,
        {"first__weight__0": "abcd", "weight__0": "abcd", "weight__1": "ef", "bias__0": "ef", "last__weight__1": "ef"},
    ),
    "add_product 2": tokens(
        lambda s, x: torch.addmm(s.a(x[0]), s.b(x[0]), s.last.weight.expand(4, 4)), a="....", b="....", last__weight__1="....",
    ),
    "add_product 3": (
        Program(nn.Linear(3, 4), lambda s, x: torch.addmm(s.own(x[0]), x[0], s.weight.t()), nn.Linear(2, 1),
                weight=nn.Parameter(torch.randn(2, 4)), own=nn.Linear(4, 2)),
        TOKENS,
        {"first__weight__0": "abcd", "weight__1": "abcd", "weight__0": "ef", "own__weight__0": "ef", "own__weight__1": "abcd"},
    ),
    "bilinear": (
        Program(nn.Identity(), lambda s, x: s.own(s.a(x), s.b(x)), nn.Linear(2, 1),
                a=nn.Linear(3, 3), b=nn.Linear(3, 4), own=nn.Bilinear(3, 4, 2)),
        TOKENS,
        {"a__weight__0": "abc", "b__weight__0": "defg", "own__weight__1": "abc", "own__weight__2": "defg",
             "own__weight__0": "hi", "last__weight__1": "hi"},
    ),
    "_along": image(lambda s, x: x.cumsum(2), "abcd", "abcd"),
    "_along 2": image(lambda s, x: x.sort(1).values, "....", "...."),
    "_col2im": image(lambda s, x: F.fold(x.flatten(2), 9, 2), "aaaabbbb", "ab"),
    "_col2im 2": image(lambda s, x: F.fold(x[0].flatten(1), 9, 2), "aaaabbbb", "ab"),
    "_factory": image(lambda s, x: x + x.new_zeros(4, 1, 1), "abcd", "abcd"),
    "_factory 2": image(lambda s, x: x[:, :2] + torch.zeros_like(x[:, 2:]), "abab", "ab"),
    "_glu": image(lambda s, x: F.glu(x, 1), "abab", "ab"),
    "_grid": image(lambda s, x: F.grid_sample(x, s.grid, align_corners=False), "abcd", "abcd", grid=GRID),
    "_im2col": image(lambda s, x: F.unfold(x, 2), "ab", "aaaabbbb", last=nn.Conv1d),
    "_im2col 2": image(lambda s, x: F.unfold(x[0], 2), "ab", "aaaabbbb", last=nn.Conv1d),
    "_pad": image(lambda s, x: aten.constant_pad_nd(x, [0, 0, 0, 0, 1, 1]), "abcd", ".abcd."),
    "_pad_mode": image(lambda s, x: aten.pad(x, [1, 1, 1, 1], "reflect"), "abcd", "abcd"),
    "_same": image(lambda s, x: x.clone(), "abcd", "abcd"),
    "_view": image(lambda s, x: x.view(2, 2, 2, 8, 8)[:, 1], "abcd", "cd"),
    "move": image(lambda s, x: torch.cat([x.flip(1), x[:, :1]], 1), "abcd", "dcbaa"),
    "_getitem": image(lambda s, x: x.split(2, 1)[1], "abcd", "cd"),
    "_batch_norm": layer(nn.BatchNorm2d(4), "abcd", "abcd", weight__0="abcd", bias__0="abcd", running_mean__0="abcd"),
    "batch_norm": image(
        lambda s, x: aten._native_batch_norm_legit_no_training(
            x, s.own.weight, s.own.bias, s.own.running_mean, s.own.running_var, 0.1, 1e-5)[0],
        "abcd", "abcd", own=nn.BatchNorm2d(4), own__weight__0="abcd", own__running_var__0="abcd",
    ),
    "_batch_statistics": image(
        lambda s, x: aten._native_batch_norm_legit(x, s.own.weight, s.own.bias, True, 0.1, 1e-5)[0],
        "abcd", "abcd", own=nn.BatchNorm2d(4, track_running_stats=False), own__weight__0="abcd", own__bias__0="abcd",
    ),
    "_instance_norm": layer(nn.InstanceNorm2d(4, affine=True), "abcd", "abcd", weight__0="abcd", bias__0="abcd"),
    "_group_norm": layer(nn.GroupNorm(2, 4), "aabb", "aabb", weight__0="aabb"),
    "_group_norm 2": layer(nn.GroupNorm(1, 4), "....", "...."),
    "_native_group_norm": image(
        lambda s, x: aten.native_group_norm(x, s.own.weight, s.own.bias, 2, 4, 64, 2, 1e-5)[0],
        "aabb", "aabb", own=nn.GroupNorm(2, 4), own__weight__0="aabb",
    ),
    "_layer_norm": layer(nn.LayerNorm((4, 8, 8)), "....", "...."),
    "_layer_norm 2": layer(nn.LayerNorm((8, 8)), "abcd", "abcd"),
    "_prelu": layer(nn.PReLU(4), "abcd", "abcd", weight__0="abcd"),
    "_prelu 2": layer(nn.PReLU(), "abcd", "abcd"),
    "over_channels": image(lambda s, x: x.softmax(1), "....", "...."),
    "over_channels 2": image(lambda s, x: x.softmax(2), "abcd", "abcd"),
    "pointwise": tokens(lambda s, x: s.a(x).sigmoid() * s.b(x) + s.c(x), a="abcd", b="abcd", c="abcd"),
    "pointwise 2": tokens(
        lambda s, x: (s.a(x)[..., None] * s.b(x)[..., None, :2]).sum(-1), a="abcd", b="..ef", last__weight__1="abcd",
    ),
    "pool": image(lambda s, x: F.max_pool2d(x, 2), "abcd", "abcd"),
    "reduce": image(lambda s, x: x.mean((2, 3), keepdim=True), "abcd", "abcd"),
    "reduce 2": image(lambda s, x: x - x.mean(1, keepdim=True), "....", "...."),
    "reduce 3": image(lambda s, x: x / torch.linalg.vector_norm(x, 3), "....", "...."),
    "reduce 4": image(lambda s, x: x / torch.linalg.vector_norm(x, 0, (2, 3), keepdim=True), "abcd", "abcd"),
    "choose": image(lambda s, x: x[:, s.order], "abcd", "badc", order=ORDER),
    "choose 2": image(lambda s, x: x[:, (x[0, :, 0, 0] > 0).long()], "....", "...."),
    "choose 3": image(lambda s, x: x.index_select(1, s.order), "abcd", "badc", order=ORDER),
    "choose 4": image(lambda s, x: x[torch.arange(2)].index_select(2, torch.arange(3)), "abcd", "abcd"),
    "choose 5": image(lambda s, x: x[torch.arange(2), :, torch.arange(2)][..., None], "abcd", "abcd"),
    "choose 6": image(lambda s, x: x.index_select(1, torch.arange(4)), "....", "...."),
    "_size": image(lambda s, x: x * x[x[:, 0, 0, 0] > 0].shape[0], ".abc", ".abc"),
    "gather": image(lambda s, x: x.gather(2, torch.arange(8).view(1, 1, 8, 1).expand(x.shape)), "abcd", "abcd"),
    "gather 2": image(lambda s, x: x.gather(2, (x > 0).long()), "abcd", "abcd"),
    "gather 3": image(lambda s, x: x.gather(1, torch.arange(4).view(1, 4, 1, 1).expand(x.shape)), "....", "...."),
    "gather 4": image(lambda s, x: x.gather(2, torch.zeros(2, 4, 8, 8).long() + torch.arange(8)), "....", "...."),
    "scatter": image(lambda s, x: x.scatter_add(2, torch.arange(8).view(1, 1, 8, 1).expand(x.shape), x), "abcd", "abcd"),
    "scatter 2": image(lambda s, x: x.scatter(1, torch.arange(4).view(1, 4, 1, 1).expand(x.shape), x), "....", "...."),
    "lay": image(lambda s, x: x.index_put((torch.arange(2),), x.flip(1)), "abba", "abba"),
    "lay 2": image(lambda s, x: torch.zeros_like(x).index_put((torch.arange(2),), x), "abcd", "abcd"),
    "lay 3": image(lambda s, x: x.index_put((torch.arange(2)[:, None], torch.arange(4)), x), "....", "...."),
    "lay_along": image(lambda s, x: x.index_add(2, torch.arange(8), x.flip(1)), "abba", "abba"),
    "lay_along 2": image(lambda s, x: x.index_copy(1, torch.arange(4), x), "....", "...."),
    "reduce 5": image(lambda s, x: torch.cat(torch.std_mean(x, (2, 3), keepdim=True), 1), "abcd", "abcdabcd"),
    "reduce 6": image(lambda s, x: torch.var_mean(x, 1, keepdim=True)[0] * x, "....", "...."),
    "matmul": tokens(lambda s, x: s.a(x) @ s.b(x).mT @ s.c(x), a="abcd", b="abcd", c="efgh", last__weight__1="efgh"),
    "einsum": tokens(
        lambda s, x: torch.einsum("bnk,bmk->bnm", s.a(x), s.b(x)) @ s.c(x), a="abcd", b="abcd", c="efgh",
        last__weight__1="efgh",
    ),
    "matmul 2": tokens(
        lambda s, x: (s.a(x)[:, None] @ s.stack)[:, 0], a="abcd", stack__1="abcd", stack__2="efgh", stack__0="..",
        last__weight__1="efgh", stack=nn.Parameter(torch.randn(2, 4, 4)),
    ),
    "matmul 3": tokens(lambda s, x: (s.a(x) @ s.stack)[:, :4], a="....", stack__0="....", stack=nn.Parameter(torch.randn(4))),
    "matmul 4": tokens(
        lambda s, x: (s.stack.mT @ s.a(x).mT[:, None]).mT[:, 0], a="abcd", stack__1="abcd", stack__2="efgh", stack__0="..",
        last__weight__1="efgh", stack=nn.Parameter(torch.randn(2, 4, 4)),
    ),
    "einsum 2": tokens(
        lambda s, x: torch.einsum("bnd,edf->bnfe", s.a(x), s.stack)[..., 0], a="abcd", stack__1="abcd", stack__0="ef",
        stack__2="....", stack=nn.Parameter(torch.randn(2, 4, 4)),
    ),
    "attention": tokens(
        lambda s, x: F.scaled_dot_product_attention(s.a(x), s.b(x), s.c(x), scale=1.0), a="abcd", b="abcd", c="efgh",
        last__weight__1="efgh",
    ),
    "recurrent": rests(nn.GRU(2, 4, batch_first=True), lambda s, x: s.own(x)[0], 3, "_l0"),
    "step": rests(nn.GRUCell(2, 4), lambda s, x: s.own(x[:, 0]), 3, ""),
}  # fmt: skip


class Together(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleDict({name.replace(" ", "-"): net for name, (net, *_) in CASES.items()})

    def forward(self, *xs: Tensor) -> list[Tensor]:
        return [net(x) for net, x in zip(self.nets.values(), xs, strict=True)]


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    return trace(Together(), tuple(x for _, x, _ in CASES.values()))


@pytest.mark.parametrize("name", CASES)
def test_units(graph: ChannelGraph, name: str):
    place, patterns = f"nets.{name.replace(' ', '-')}", CASES[name][2]
    units = {(a.name, a.axis): a.units.tolist() for a in (*graph.axes, *graph.buffers)}
    rename, shown = {-1: "."}, {}
    for key, pattern in patterns.items():
        tensor, _, axis = key.rpartition("__")
        got = units.get((f"{place}.{tensor.replace('__', '.')}", int(axis)), [-1] * len(pattern))
        shown[key] = "".join(rename.setdefault(unit, chr(96 + len(rename))) for unit in got)
    assert shown == patterns


@pytest.mark.parametrize("name", [name for name in CASES if name not in REWRITTEN])
def test_the_program_asks_the_rule(graph: ChannelGraph, name: str):
    place = f"nets.{name.replace(' ', '-')}"
    nodes = [
        n for n in graph.program.graph.nodes if n.op == "call_function" and f"{module_of(n)}.".startswith(f"{place}.")
    ]
    assert name.split()[0] in {rule_registry.rule_for(node).__name__ for node in nodes}


def test_every_rule_has_a_case():
    assert {rule.__name__ for rule in rule_registry._RULES.values()} == {name.split()[0] for name in CASES}

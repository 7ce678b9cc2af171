"""Positions that the input chooses: graph networks, pooling by a mask, tokens that are gathered or laid back."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patterns.registry import Made, Net, kill, pattern


def _wide(index: Tensor, like: Tensor) -> Tensor:
    return index[..., None].expand(*index.shape, like.shape[-1])


NODES: dict[str, Callable[..., Tensor]] = {
    "index_add": lambda h, src, dst: torch.zeros_like(h).index_add(0, dst, h.index_select(0, src)),
    "scatter_add": lambda h, src, dst: torch.zeros_like(h).scatter_add(0, _wide(dst, h), h[src]),
    "amax": lambda h, src, dst: torch.zeros_like(h).scatter_reduce(0, _wide(dst, h), h[src], "amax"),
    "mean": lambda h, src, dst: torch.zeros_like(h).scatter_reduce(
        0, _wide(dst, h), h[src], "mean", include_self=False
    ),
    "expand_as": lambda h, src, dst: h.scatter_add(0, dst[:, None].expand_as(h[src]), h[src]),
    "average": lambda h, src, dst: (
        torch.zeros_like(h).index_add(0, dst, h[src])
        / torch.zeros(len(h)).index_add(0, dst, torch.ones(len(src))).clamp(min=1)[:, None]
    ),
    "put": lambda h, src, dst: torch.zeros_like(h).index_put((dst,), h[src], accumulate=True),
}


@pattern(each=NODES)
def messages_between_nodes(spread: Callable[..., Tensor]) -> Made:
    """One layer of a graph network: each edge takes a node's features to another one, where they are added up."""
    net = Net(lambda s, x, src, dst: s.b(spread(F.relu(s.a(x)), src, dst)), a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    kill(net.a, (0, 1, 5))
    return net, (torch.randn(7, 5), torch.randint(0, 7, (12,)), torch.randint(0, 7, (12,)))


TOKENS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gather": lambda h, i: h.gather(1, _wide(i, h)),
    "rows": lambda h, i: h[:, i[0]],
    "last": lambda h, i: h[torch.arange(h.shape[0]), i[:, 0]],
    "pairs": lambda h, i: h[torch.arange(h.shape[0])[:, None], i],
    "scatter": lambda h, i: torch.zeros_like(h).scatter(1, _wide(i, h), h[:, : i.shape[1]]),
    "repeat": lambda h, i: h.gather(1, i[..., None].repeat(1, 1, h.shape[-1])),
    "top": lambda h, i: h.gather(1, h.topk(2, 1).indices),
    "copy": lambda h, i: h.index_copy(1, torch.arange(4), h[:, i[0]]),
    "assigned": lambda h, i: _assigned(h.clone(), i),
}


def _assigned(h: Tensor, i: Tensor) -> Tensor:
    h[:, i[0]] = h[:, i[1]] * 2
    return h


@pattern(each=TOKENS)
def tokens_chosen_by_the_input(choose: Callable[..., Tensor]) -> Made:
    net = Net(lambda s, x, i: s.b(choose(F.relu(s.a(x)), i)), a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    kill(net.a, (0, 1, 5))
    return net, (torch.randn(2, 6, 5), torch.stack([torch.randperm(6)[:4] for _ in range(2)]))


CHANNELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gather": lambda h, i: h.gather(2, _wide(i, h)),
    "rows": lambda h, i: h[..., i[0]],
    "width": lambda h, i: h.gather(1, i[..., None].expand(-1, -1, 4)),
    "each": lambda h, i: h.gather(1, i[..., None] + torch.arange(h.shape[-1]) % 2),
    "scatter": lambda h, i: h.scatter(2, _wide(i, h), h[:, :4]),
    "assigned": lambda h, i: h.index_put(
        (torch.arange(2)[:, None, None], torch.arange(6)[:, None], i[:1, None]), h[..., :4]
    ),
}


@pattern(smaller=None, each=CHANNELS)
def channels_chosen_by_the_input(choose: Callable[..., Tensor]) -> Made:
    """Which channels stay must not change what is chosen."""
    net = Net(lambda s, x, i: torch.tanh(choose(F.relu(s.a(x)), i)), a=nn.Linear(5, 8))
    kill(net.a, (0, 1, 5))
    return net, (torch.randn(2, 6, 5), torch.stack([torch.randperm(5)[:4] for _ in range(2)]))


@pattern(each=("index", "buffer"))
def table_that_the_input_looks_up(how: str) -> Made:
    """A parameter's rows are chosen, its channels are those of what they are added to."""

    def forward(s: Net, x: Tensor, *i: Tensor) -> Any:
        rows = i[0] if i else s.order[: x.shape[1]]
        return s.b(F.relu(s.a(x) + s.table[rows]))

    net = Net(
        forward, a=nn.Linear(5, 8), table=nn.Parameter(torch.randn(9, 8)), b=nn.Linear(8, 3), order=torch.randperm(9)
    )
    kill(net.a, (0, 1, 5))
    with torch.no_grad():
        net.table[:, [0, 1, 5]] = 0
    return net, (torch.randn(2, 4, 5), torch.randperm(4)) if how == "index" else torch.randn(2, 4, 5)


MASKED: dict[str, Callable[..., Tensor]] = {
    "rows": lambda h, m: h[m],
    "sum": lambda h, m: h[m].sum(0, keepdim=True) * h[m].shape[0],
    "edges": lambda h, m: torch.zeros_like(h).index_add(0, m.nonzero()[:, 0], h[m].relu()),
    "other axis": lambda h, m: h[None][:, m],
    "two axes": lambda h, m: h.view(1, 7, -1)[m[None]],
}


@pattern(each=MASKED)
def rows_chosen_by_a_mask(choose: Callable[..., Tensor]) -> Made:
    """How many rows are left depends on the data: graph networks that drop edges, encoders of visible tokens."""
    net = Net(lambda s, x, m: s.b(choose(F.relu(s.a(x)), m)), a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    kill(net.a, (0, 1, 5))
    return net, (torch.randn(7, 5), torch.tensor([1, 0, 1, 1, 0, 0, 1]).bool())


@pattern(smaller=None, each=("of the input", "of themselves"))
def channels_chosen_by_a_mask(whose: str) -> Made:
    def forward(s: Net, x: Tensor, m: Tensor) -> Tensor:
        h = F.relu(s.a(x))
        return torch.tanh(h[:, m] if whose == "of the input" else h[h > 0.1])

    net = Net(forward, a=nn.Linear(5, 8))
    kill(net.a, (0, 1, 5))
    return net, (torch.randn(7, 5), torch.tensor([1, 0, 1, 1, 0, 0, 1, 1]).bool())

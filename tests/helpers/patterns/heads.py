"""Heads of attention whose code states one number for several widths, or lays one table over all of them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patterns.registry import Made, kill, pattern, trained


class Attend(nn.Module):
    """Heads of one width, with what lies over all of them."""

    def __init__(self, heads: int, dim: int, how: str) -> None:
        super().__init__()
        width = heads * dim
        self.h, self.d, self.how = heads, dim, how
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        if how == "scale":
            self.scale = nn.Parameter(torch.rand(dim) + 0.5)
        if how == "gate":
            self.gate = nn.Linear(width, heads)
        angle = torch.arange(32)[:, None] * torch.logspace(0, -1, dim // 2)
        self.register_buffer("cos", torch.cat([angle.cos()] * 2, -1))
        self.register_buffer("sin", torch.cat([angle.sin()] * 2, -1))

    def over_heads(self, x: Tensor) -> Tensor:
        half, n = x.shape[-1] // 2, x.shape[-2]
        if self.how == "table":
            turned = torch.cat([-x[..., half:], x[..., :half]], -1)
            return x * self.cos[:n] + turned * self.sin[:n]
        if self.how == "pairs":
            first, second, cos, sin = x[..., ::2], x[..., 1::2], self.cos[:n, ::2], self.sin[:n, ::2]
            return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)
        if self.how == "scale":
            return x * x.pow(2).mean(-1, keepdim=True).add(1e-3).rsqrt() * self.scale
        return x

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.q(x), self.k(x), self.v(x)
        d = k.shape[-1] // self.h if self.how == "width" else self.d
        q, k, v = (t.view(b, n, -1 if self.how == "open" else self.h, d).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(self.over_heads(q), self.over_heads(k), v, scale=0.4)
        if self.how == "gate":
            y = y * self.gate(x).sigmoid().transpose(1, 2)[..., None]
        elif self.how == "input":
            y = y * x[:, None, :, : self.d]
        return self.out(y.transpose(1, 2).reshape(b, n, -1))


class Block(nn.Module):
    def __init__(self, heads: int, dim: int, how: str) -> None:
        super().__init__()
        width = heads * dim
        self.stem, self.attend, self.head = nn.Linear(6, width), Attend(heads, dim, how), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        result: Tensor = self.head(x + self.attend(x))
        return result


@pattern(each=("stated", "open", "width", "scale-of-dims", "open-silent"), kept=("scale-of-dims",))
def one_number_for_widths_of_heads(how: str) -> Made:
    """Queries and keys lose two dimensions of eight and values three: as many of each may go as can of all.

    Values that are all zero, as those of a decoder that starts with queries of zeros, keep one channel, and so do others.
    """
    net = trained(Block(4, 8, how.partition("-")[0]))
    attend: Any = net.attend
    for first in range(0, 32, 8):
        kill(attend.v, range(first, first + 8) if how == "open-silent" else [first, first + 3, first + 6])
        for layer in (attend.q, attend.k):
            kill(layer, [first + 1, first + 4])
    return net, torch.randn(2, 5, 6)


WAYS = ("table", "pairs", "scale", "gate", "input", "equal", "dims-of-table")


@pattern(each=WAYS, kept=("dims-of-table",))
def one_slice_for_all_heads(how: str) -> Made:
    """Whole heads go although a vector, a table or a value that is as wide as one of them lies over all.

    Dimensions go in all heads or in none.
    """
    heads, dim = (4, 4) if how == "equal" else (3, 4)
    net = trained(Block(heads, dim, "table" if how in ("equal", "dims-of-table") else how))
    attend: Any = net.attend
    rows = [1, 3, 5, 7, 8, 10] if how == "dims-of-table" else range(dim, 2 * dim)
    for layer in (attend.q, attend.k, attend.v):
        kill(layer, rows)
    return net, torch.randn(2, 5, 6)

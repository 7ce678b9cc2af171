"""The list of penalties that every test of tests/penalties goes through: a new one joins by a line."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_prune.groups import Member, Partition
from ssl_prune.penalties import L1, GroupLasso, GroupMCP, GroupSCAD, Penalty, SparseGroupLasso

Make = Callable[..., Partition]


def two_groups(seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Partition:
    """Groups 0, 1 over the rows of a (3, 2) weight (row 2 in none) and a vector coupled to them; float64 by default."""
    generator = torch.Generator().manual_seed(seed)
    w, v = (nn.Parameter(scale * torch.randn(s, generator=generator, dtype=dtype)) for s in ((3, 2), (2,)))
    members = [Member("a.weight", w, torch.tensor([[0], [1], [-1]])), Member("a.bias", v, torch.tensor([0, 1]))]
    return Partition(members, ("a",), torch.tensor([0, 0]), "row")


@dataclass(frozen=True)
class Case:
    """A penalty, and once more what one group costs: of weight entries ``(..., n)`` and vector entries ``(..., m)``."""

    penalty: Penalty
    cost: Callable[[Tensor, Tensor], Tensor]

    def __str__(self) -> str:
        return str(self.penalty)


def norm(w: Tensor, v: Tensor) -> Tensor:
    return torch.cat([w, v], -1).norm(dim=-1)


def root(w: Tensor, v: Tensor) -> float:
    return float((w.shape[-1] + v.shape[-1]) ** 0.5)


def mcp(t: Tensor, a: float, gamma: float) -> Tensor:
    return torch.where(t <= a * gamma, a * t - t**2 / (2 * gamma), torch.full_like(t, a**2 * gamma / 2))


def scad(t: Tensor, a: float, k: float) -> Tensor:
    middle = (2 * a * k * t - t**2 - k**2) / (2 * (a - 1) * k)
    return torch.where(t <= k, t, torch.where(t <= a * k, middle, torch.full_like(t, (a + 1) * k / 2)))


CASES = [
    Case(L1(), lambda w, v: w.abs().sum(-1)),
    Case(GroupLasso(), norm),
    Case(GroupLasso(size_norm="sqrt"), lambda w, v: root(w, v) * norm(w, v)),
    Case(SparseGroupLasso(l1_ratio=0.3), lambda w, v: 0.3 * w.abs().sum(-1) + 0.7 * norm(w, v)),
    Case(
        SparseGroupLasso(l1_ratio=0.7, size_norm="sqrt"),
        lambda w, v: 0.7 * w.abs().sum(-1) + 0.3 * root(w, v) * norm(w, v),
    ),
    Case(GroupMCP(gamma=1.5), lambda w, v: mcp(norm(w, v), 1.0, 1.5)),
    Case(GroupMCP(gamma=0.6, size_norm="sqrt"), lambda w, v: mcp(norm(w, v), root(w, v), 0.6)),
    Case(GroupSCAD(a=2.5, knee=0.5), lambda w, v: scad(norm(w, v), 2.5, 0.5)),
    Case(GroupSCAD(size_norm="sqrt"), lambda w, v: root(w, v) * scad(norm(w, v), 3.7, root(w, v))),
]
PENALTIES = [case.penalty for case in CASES]

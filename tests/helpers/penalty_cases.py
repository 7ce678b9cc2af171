"""The list of penalties that every test of tests/penalties goes through: a new one joins by a line."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_prune.penalties import L1, GroupLasso, GroupMCP, GroupSCAD, Penalty, SparseGroupLasso


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

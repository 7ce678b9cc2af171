"""Every penalty, trained to convergence on a convex problem, satisfies its optimality condition."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RMSprop

from ssl_prune.groups import Member, Partition
from ssl_prune.penalties import L1, GroupLasso, Penalty, SparseGroupLasso
from ssl_prune.solvers import ProximalSolver

PENALTIES: list[tuple[Penalty, float]] = [
    (L1(), 0.3),
    (GroupLasso(), 0.5),
    (GroupLasso(size_norm="sqrt"), 0.3),
    (SparseGroupLasso(l1_ratio=0.5), 0.5),
    (SparseGroupLasso(l1_ratio=0.2, size_norm="sqrt"), 0.3),
]
LATER = [pytest.param(*pair, marks=pytest.mark.slow) for pair in PENALTIES[1::2]]
ROWS = 5


def problem() -> tuple[nn.Parameter, Partition, Tensor, Tensor]:
    """Least squares ``||A vec(W) - b||^2 / 2n`` in float64; a group is a row of W (5, 3)."""
    generator = torch.Generator().manual_seed(7)
    a = torch.randn(40, ROWS * 3, generator=generator, dtype=torch.float64)
    truth = torch.randn(ROWS, 3, generator=generator, dtype=torch.float64)
    truth[[1, 3]] = 0
    noise = 0.5 * torch.randn(40, generator=generator, dtype=torch.float64)
    w = nn.Parameter(torch.zeros(ROWS, 3, dtype=torch.float64))
    member = Member("w.weight", w, torch.arange(ROWS)[:, None])
    return w, Partition([member], ("w",), torch.zeros(ROWS, dtype=torch.long), "row"), a, a @ truth.flatten() + noise


def violation(w: Tensor, gradient: Tensor, penalty: Penalty, strength: float) -> float:
    """The distance from 0 to ``gradient + strength * subdifferential(w)``, the worst of all rows."""
    ratio = {L1: 1.0, GroupLasso: 0.0}.get(type(penalty), getattr(penalty, "l1_ratio", 0.0))
    size = 3**0.5 if getattr(penalty, "size_norm", "none") == "sqrt" else 1.0
    entry, whole = strength * ratio, strength * (1 - ratio) * size
    worst = 0.0
    for row, grad in zip(w, gradient, strict=True):
        # What the l1 part can cancel at zero entries, it does; at the others its sign is fixed.
        left = torch.where(row == 0, grad.sign() * (grad.abs() - entry).clamp(min=0), grad + entry * row.sign())
        if row.any():
            left = left + whole * row / row.norm()
            distance = left.norm()
        else:
            distance = (left.norm() - whole).clamp(min=0)
        worst = max(worst, float(distance))
    return worst


@pytest.mark.parametrize(("penalty", "strength"), [*PENALTIES[::2], *LATER], ids=str)
@pytest.mark.parametrize("settings", ["sgd", "momentum", "plain momentum", "dampened", "adam", "rmsprop"])
def test_optimality(penalty: Penalty, strength: float, settings: str) -> None:
    w, groups, a, b = problem()
    choices: dict[str, tuple[Optimizer, bool]] = {
        "sgd": (SGD([w], lr=0.2), False),
        "momentum": (SGD([w], lr=0.05, momentum=0.8), True),
        "plain momentum": (SGD([w], lr=0.05, momentum=0.8), False),
        "dampened": (SGD([w], lr=0.1, momentum=0.5, dampening=0.5), True),
        "adam": (Adam([w], lr=0.02, betas=(0.5, 0.99)), True),
        "rmsprop": (RMSprop([w], lr=0.01, momentum=0.5), True),
    }
    optimizer, preconditioned = choices[settings]
    if settings == "plain momentum":
        strength /= 1 - 0.8
    ProximalSolver(groups, penalty, strength, preconditioned=preconditioned).attach(optimizer)
    if settings == "plain momentum":
        strength *= 1 - 0.8  # the momentum's sum weighs the data this much more

    def gradient() -> Tensor:
        optimizer.zero_grad()
        loss: Any = (a @ w.flatten() - b).square().sum() / (2 * len(b))
        loss.backward()
        assert w.grad is not None
        return w.grad.detach().clone()

    start = violation(w.detach(), gradient(), penalty, strength)
    for _ in range(800):
        gradient()
        optimizer.step()
    assert start > 0.3
    assert violation(w.detach(), gradient(), penalty, strength) < 1e-4
    assert w.detach().eq(0).any()
    assert w.detach().ne(0).any()

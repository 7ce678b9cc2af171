import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from ssl_prune.penalties import L1, GroupLasso, SparseGroupLasso
from ssl_prune.solvers import ProximalSolver, preconditioner

NewNet = Callable[[], Any]


def adam_metric(v: Tensor, step: int, lr: float) -> Tensor:
    return ((v / (1 - 0.999**step)).sqrt() + 1e-8) / lr


def test_adam_metric_satisfies_its_optimality_condition(new_net: NewNet) -> None:
    net, plain = new_net(), new_net()
    ours, theirs = Adam(net.parameters(), lr=0.01), Adam(plain.parameters(), lr=0.01)
    solver = ProximalSolver(net.units(), GroupLasso(), 0.01, preconditioned=True)
    solver.attach(ours)
    for step in range(3):
        plain.load_state_dict(net.state_dict())
        theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
        net.backward(step)
        plain.backward(step)
        ours.step()
        theirs.step()
        for name in ("weight", "bias"):
            z, w = getattr(net.a, name), getattr(plain.a, name)
            h = adam_metric(ours.state[z]["exp_avg_sq"], step + 1, 0.01)
            norms = solver.groups.norms().view([6] + [1] * (z.ndim - 1))
            residual = (h * (z - w) + 0.01 * z / norms).detach()
            assert residual[norms.flatten() > 0].abs().max() < 2e-4


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (SGD, {"momentum": 0.9}),
        (Adam, {"amsgrad": True}),
        (AdamW, {"fused": True}),
        (RMSprop, {"centered": True}),
        (RMSprop, {}),
        (Adagrad, {"lr_decay": 0.1}),
    ],
)
@pytest.mark.parametrize("penalty", [L1(), GroupLasso(), SparseGroupLasso()], ids=str)
def test_every_known_metric_shrinks_and_stays_finite(
    new_net: NewNet, kind: type[Optimizer], settings: dict[str, Any], penalty: Any
) -> None:
    net = new_net()
    optimizer = kind(net.parameters(), lr=0.01, **settings)  # type: ignore[call-arg]
    solver = ProximalSolver(net.units(), penalty, 0.02, preconditioned=True)
    solver.attach(optimizer)
    for step in range(10):
        net.backward(step)
        optimizer.step()
    assert net.flat().isfinite().all()
    plain = new_net()
    reference = kind(plain.parameters(), lr=0.01, **settings)  # type: ignore[call-arg]
    for step in range(10):
        plain.backward(step)
        reference.step()
    assert penalty.value(solver.groups) < penalty.value(plain.units())


@pytest.mark.parametrize("settings", [{}, {"amsgrad": True}, {"fused": True}, {"lr": 0.0}])
def test_metrics_taken_at_once_are_those_of_each_parameter(
    monkeypatch: pytest.MonkeyPatch, new_net: NewNet, settings: dict[str, Any]
) -> None:
    net = new_net()
    adam = Adam(net.parameters(), **{"lr": 0.01, "betas": (0.8, 0.99), **settings})
    for step in range(3):
        net.backward(step)
        adam.step()
    params = list(net.parameters())
    one = preconditioner.diagonals(adam, adam.param_groups * len(params), params, torch.float32)
    monkeypatch.setattr(preconditioner, "launching_costs", lambda device: True)
    at_once = preconditioner.diagonals(adam, adam.param_groups * len(params), params, torch.float32)
    for a, b in zip(one, at_once, strict=True):
        torch.testing.assert_close(b, a)

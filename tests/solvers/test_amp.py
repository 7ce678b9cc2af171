from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

from ssl_prune.penalties import GroupLasso
from ssl_prune.solvers import ProximalSolver

NewNet = Callable[[], Any]


def poison(net: Any) -> None:
    net.a.weight.grad[0, 0] = torch.inf


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_the_scaler_skips(new_net: NewNet, kind: type[Optimizer], fused: bool) -> None:
    net, by_hand = new_net(), new_net()
    ours, theirs = (kind(n.parameters(), lr=0.05, fused=fused) for n in (net, by_hand))  # type: ignore[call-arg]
    solver = ProximalSolver(net.units(), GroupLasso(), 0.3)
    solver.attach(ours)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    taken = 0
    for step in range(6):
        before = net.flat()
        net.backward(step)
        for p in net.parameters():
            p.grad.mul_(scaler.scale(torch.ones(())))
        if step % 3 == 1:
            poison(net)
        scaler.step(ours)
        scaler.update()
        if step % 3 == 1:
            assert torch.equal(net.flat(), before)
            continue
        taken += 1
        by_hand.backward(step)
        theirs.step()
        GroupLasso().prox(by_hand.units(), 0.05 * 0.3)
        torch.testing.assert_close(net.flat(), by_hand.flat())
    assert solver.step_count == taken == 4

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam

from ssl_prune.penalties import L1, GroupLasso, Penalty, SparseGroupLasso
from ssl_prune.schedules import Linear
from ssl_prune.solvers import SubgradientSolver

NewNet = Callable[[], Any]


def cost(net: Any, penalty: Penalty) -> Tensor:
    rows = torch.cat([net.a.weight, net.a.bias[:, None]], 1).norm(dim=1).sum()
    entries = net.a.weight.abs().sum()
    return {L1: entries, GroupLasso: rows, SparseGroupLasso: 0.5 * entries + 0.5 * rows}[type(penalty)]


@pytest.mark.parametrize("penalty", [L1(), GroupLasso(), SparseGroupLasso(0.5)], ids=str)
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("clip", [False, True])
def test_equals_differentiating_loss_plus_penalty(new_net: NewNet, penalty: Penalty, parts: int, clip: bool) -> None:
    net, by_hand = new_net(), new_net()
    ours, theirs = (SGD(n.parameters(), lr=0.05, momentum=0.9) for n in (net, by_hand))
    solver = SubgradientSolver(net.units(), penalty, 0.2, Linear(end="10it"), threshold=0.0)
    solver.attach(ours)
    for step in range(10):
        net.backward(step, parts)
        solver.add_gradient()
        by_hand.backward(step, parts)
        (0.2 * step / 10 * cost(by_hand, penalty)).backward()
        for n in (net, by_hand):
            if clip:
                torch.nn.utils.clip_grad_norm_(n.parameters(), 0.1)
        ours.step()
        theirs.step()
    torch.testing.assert_close(net.flat(), by_hand.flat(), rtol=1e-5, atol=1e-6)


def test_threshold_is_exact_and_strict(new_net: NewNet) -> None:
    net = new_net()
    below, at = torch.nextafter(torch.tensor(1e-4), torch.tensor(0.0)), torch.tensor(1e-4)
    net.a.weight.data[0] = torch.stack([below, at, -below, -at])
    net.b.bias.data[0] = below  # a parameter of no group
    net.b.bias.data[1] = torch.nan
    sgd = SGD(net.parameters(), lr=0.1)
    SubgradientSolver(net.units(), GroupLasso(), 1.0, threshold=float(at)).attach(sgd)
    sgd.step()
    assert net.a.weight.data[0].tolist() == [0, at, 0, -at]
    assert net.b.bias[0] == 0
    assert net.b.bias[1].isnan()


def test_threshold_only_where_asked_and_on_trained_parameters(new_net: NewNet) -> None:
    net = new_net()
    net.a.weight.data.fill_(1e-5)
    net.b.weight.data.fill_(1e-5)
    sgd = SGD(net.parameters(), lr=0.1)
    solver = SubgradientSolver(net.units(), GroupLasso(), 1.0, thresholded=[net.a.weight])
    solver.attach(sgd)
    sgd.step()
    assert not net.a.weight.any()
    assert net.b.weight.all()
    net.b.weight.requires_grad_(False)
    other = SubgradientSolver(net.units(), GroupLasso(), 1.0)
    solver.detach()
    other.attach(sgd)
    sgd.step()
    assert net.b.weight.all()


def test_strength_zero_is_the_identity(new_net: NewNet) -> None:
    net, plain = new_net(), new_net()
    net.a.weight.data[0] = plain.a.weight.data[0] = 1e-6
    ours, theirs = SGD(net.parameters(), lr=0.1), SGD(plain.parameters(), lr=0.1)
    solver = SubgradientSolver(net.units(), GroupLasso(), 0.0)
    solver.attach(ours)
    for step in range(3):
        net.backward(step)
        solver.add_gradient()
        plain.backward(step)
        ours.step()
        theirs.step()
    assert torch.equal(net.flat(), plain.flat())


def test_zeros_appear_and_are_held(new_net: NewNet) -> None:
    net = new_net()
    sgd = SGD(net.parameters(), lr=0.01)
    solver = SubgradientSolver(net.units(), GroupLasso(), 5.0, threshold=0.06, freeze_at=60)
    solver.attach(sgd)
    for step in range(80):
        net.backward(step)
        solver.add_gradient()
        sgd.step()
        if step == 59:
            dead = ~solver.groups.alive()
    assert dead.any()
    assert solver.frozen
    assert not net.a.weight[dead].any()


def test_gradient_is_made_where_there_is_none(new_net: NewNet) -> None:
    net = new_net()
    solver = SubgradientSolver(net.units(), L1(), 0.5)
    with pytest.raises(RuntimeError, match="attach the optimizers before"):
        solver.add_gradient()
    first, second = SGD(net.parameters(), lr=0.1), SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    solver.attach(first, second)
    solver.add_gradient(second)
    assert net.a.weight.grad is None
    solver.add_gradient(first)
    assert torch.equal(net.a.weight.grad, 0.5 * net.a.weight.sign())


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_fused_optimizers_under_a_scaler_are_refused(new_net: NewNet, kind: Any) -> None:
    net = new_net()
    solver = SubgradientSolver(net.units(), GroupLasso(), 1.0)
    solver.attach(kind(net.parameters(), lr=0.1))
    solver.check_amp()
    solver.detach()
    solver.attach(kind(net.parameters(), lr=0.1, fused=True))
    with pytest.raises(RuntimeError, match=rf"{kind.__name__}\(fused=True\) under a gradient scaler"):
        solver.check_amp()


@pytest.mark.parametrize("threshold", [-1.0, float("nan"), float("inf")])
def test_bad_threshold(new_net: NewNet, threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must be a finite number >= 0"):
        SubgradientSolver(new_net().units(), L1(), 1.0, threshold=threshold)

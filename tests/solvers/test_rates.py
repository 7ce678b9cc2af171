from collections.abc import Callable
from typing import Any

import torch
from torch.optim import SGD, Optimizer

from ssl_prune.groups import Member, Partition
from ssl_prune.penalties import GroupLasso, SparseGroupLasso
from ssl_prune.schedules import Constant
from ssl_prune.solvers import ProximalSolver

NewNet = Callable[[], Any]


def test_lr_zero_changes_nothing(new_net: NewNet) -> None:
    net = new_net()
    before = net.flat()
    rates = [{"params": [net.a.weight, *net.b.parameters()], "lr": 0.0}, {"params": [net.a.bias], "lr": 0.0}]
    sgd = SGD(rates)
    ProximalSolver(net.units(), SparseGroupLasso(), 1.0).attach(sgd)
    sgd.step()
    assert torch.equal(net.flat(), before)


def two_rates(net: Any, inside: bool) -> tuple[Optimizer, Partition]:
    first = [net.a.weight] if inside else [net.a.weight, net.a.bias]
    rest = [p for p in net.parameters() if all(p is not f for f in first)]
    groups = net.units()
    if not inside:
        columns = Member("b.weight", net.b.weight, torch.arange(6, 12)[None])
        groups = Partition([*groups.members, columns], ("a", "b"), torch.arange(12) // 6, "unit")
    return SGD([{"params": first, "lr": 0.1}, {"params": rest, "lr": 0.02}]), groups


def test_rates_that_differ_between_groups(new_net: NewNet) -> None:
    net, by_hand = new_net(), new_net()
    sgd, groups = two_rates(net, inside=False)
    ProximalSolver(groups, GroupLasso(), 1.0).attach(sgd)
    sgd.step()
    _, same = two_rates(by_hand, inside=False)
    same.scale_((1 - torch.tensor([0.1] * 6 + [0.02] * 6) / same.norms()).clamp(min=0))
    torch.testing.assert_close(net.flat(), by_hand.flat())


def test_rates_that_differ_inside_a_group_minimise_in_their_metric(new_net: NewNet) -> None:
    net = new_net()
    before = torch.cat([net.a.weight, net.a.bias[:, None]], 1).detach().double()
    sgd, groups = two_rates(net, inside=True)
    ProximalSolver(groups, GroupLasso(), 2.0).attach(sgd)
    sgd.step()
    after = torch.cat([net.a.weight, net.a.bias[:, None]], 1).detach().double()
    h = 1 / torch.tensor([0.1] * 4 + [0.02]).double()
    norms = after.norm(dim=1, keepdim=True)
    assert (norms > 0).all()
    # H (z - w) + strength z / ||z|| = 0
    residual = h * (after - before) + 2.0 * after / norms
    assert residual.abs().max() < 1e-4


def test_one_rate_zero_inside_a_group(new_net: NewNet) -> None:
    net = new_net()
    bias = net.a.bias.detach().clone()
    sgd, groups = two_rates(net, inside=True)
    sgd.param_groups[1]["lr"] = 0.0
    ProximalSolver(groups, GroupLasso(), 1000.0).attach(sgd)
    sgd.step()
    assert net.a.weight.abs().max() < 0.01
    torch.testing.assert_close(net.a.bias.detach(), bias)


def test_two_optimizers_step_in_turn(new_net: NewNet) -> None:
    net = new_net()
    _, groups = two_rates(net, inside=False)
    first, second = SGD(net.a.parameters(), lr=0.1), SGD(net.b.parameters(), lr=0.02)
    solver = ProximalSolver(groups, GroupLasso(), 1.0, Constant(start="1it"))
    solver.attach(first, second)
    norms = groups.norms()
    first.step()  # step 0 of the first optimizer: before the start
    assert torch.equal(groups.norms(), norms)
    first.step()
    torch.testing.assert_close(groups.norms()[:6], (norms[:6] - 0.1).clamp(min=0))
    second.step()  # step 0 of the second
    assert torch.equal(groups.norms()[6:], norms[6:])
    second.step()
    torch.testing.assert_close(groups.norms()[6:], (norms[6:] - 0.02).clamp(min=0))
    assert solver.step_count == 2

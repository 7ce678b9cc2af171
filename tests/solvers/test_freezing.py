from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from ssl_prune.penalties import L1, GroupLasso, Penalty, SparseGroupLasso
from ssl_prune.schedules import Linear
from ssl_prune.solvers import ProximalSolver
from ssl_prune.timing import RunLength, Time

NewNet = Callable[[], Any]
OPTIMIZERS: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (Adam, {"lr": 0.05, "weight_decay": 0.1, "amsgrad": True}),
    (AdamW, {"lr": 0.05, "weight_decay": 0.1, "fused": True}),
    (RMSprop, {"lr": 0.01, "momentum": 0.9, "centered": True}),
    (Adagrad, {"lr": 0.1}),
]


def train(net: Any, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        net.backward(step)
        optimizer.step()


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS)
@pytest.mark.parametrize("penalty", [GroupLasso(), SparseGroupLasso(0.5)], ids=str)
def test_zeros_stay_and_the_rest_moves(
    new_net: NewNet, kind: type[Optimizer], settings: dict[str, Any], penalty: Penalty
) -> None:
    net = new_net()
    optimizer = kind(net.parameters(), **settings)
    solver = ProximalSolver(net.units(), penalty, 1.0, freeze_at=10)
    solver.attach(optimizer)
    train(net, optimizer, range(9))
    with torch.no_grad():  # whatever the penalty did: units 0 and 3 die now, single entries too, unit 1 lives
        net.a.weight[[0, 3]] = net.a.bias[[0, 3]] = 0
        net.a.weight[1] = torch.tensor([1.0, 0.0, 2.0, 3.0])
        solver.strength = 1e-6
    assert not solver.frozen
    train(net, optimizer, range(9, 10))
    assert solver.frozen
    zero = net.a.weight.detach() == 0
    dead = ~solver.groups.alive()
    alive = net.a.weight.detach().clone()
    assert solver.current_strength == 0
    for step in range(10, 20):
        train(net, optimizer, range(step, step + 1))
        assert not net.a.weight[dead].any()
        assert not net.a.bias[dead].any()
        if penalty.entrywise:
            assert not net.a.weight[zero].any()
    assert bool((net.a.weight[~zero] != alive[~zero]).all())


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS)
def test_state_of_dead_groups_is_cleared_once(new_net: NewNet, kind: type[Optimizer], settings: dict[str, Any]) -> None:
    net = new_net()
    optimizer = kind(net.parameters(), **settings)
    solver = ProximalSolver(net.units(), GroupLasso(), 1e-6)
    solver.attach(optimizer)
    train(net, optimizer, range(3))
    with torch.no_grad():
        net.a.weight[2] = net.a.bias[2] = 0
    solver.freeze()
    for param in (net.a.weight, net.a.bias):
        tensors = [v for v in optimizer.state[param].values() if isinstance(v, torch.Tensor) and v.shape == param.shape]
        assert tensors
        for value in tensors:
            assert not value[2].any()
            assert value[[0, 1, 3, 4, 5]].any()


@pytest.mark.parametrize("time", ["0.7", "1.75ep", "7it", 7, Time(7, "it")])
def test_a_time_of_the_run_is_a_step(new_net: NewNet, time: Any) -> None:
    net = new_net()
    solver = ProximalSolver(net.units(), GroupLasso(), 0.1, freeze_at=time, run=RunLength(10, 4))
    optimizer = SGD(net.parameters(), lr=0.1)
    solver.attach(optimizer)
    train(net, optimizer, range(6))
    assert not solver.frozen
    train(net, optimizer, range(6, 7))
    assert solver.frozen


def test_a_solver_frozen_from_step_0_freezes_at_attach(new_net: NewNet) -> None:
    net = new_net()
    net.a.weight.data[4] = net.a.bias.data[4] = 0
    sgd = SGD(net.parameters(), lr=0.1, momentum=0.9)
    solver = ProximalSolver(net.units(), GroupLasso(), 1.0, freeze_at=0)
    solver.attach(sgd)
    assert solver.frozen
    train(net, sgd, range(3))
    assert solver.groups.alive().tolist() == [True, True, True, True, False, True]


def test_shifts_that_happen_to_be_zero_are_free(new_net: NewNet) -> None:
    net = new_net()
    net.a.bias.data.zero_()
    sgd = SGD(net.parameters(), lr=0.1)
    ProximalSolver(net.units(), L1(), 1.0, freeze_at=0).attach(sgd)
    train(net, sgd, range(2))
    assert net.a.bias.all()


def test_rebind_goes_on_with_the_cut_network(new_net: NewNet) -> None:
    net = new_net()
    net.a.weight.data[4] = net.a.bias.data[4] = 0
    sgd = SGD(net.parameters(), lr=0.1)
    solver = ProximalSolver(net.units(), GroupLasso(), 1.0)
    solver.attach(sgd)
    train(net, sgd, range(2))
    solver.freeze()
    net.a.weight.data[5] = net.a.bias.data[5] = 0
    solver.rebind(net.units())
    train(net, sgd, range(2, 4))
    assert solver.step_count == 4
    assert solver.frozen
    assert not net.a.weight[5].any()
    assert len(sgd._optimizer_step_post_hooks) == 1


@pytest.mark.parametrize("stop", [1, 5, 9])
@pytest.mark.parametrize("penalty", [GroupLasso(), SparseGroupLasso(0.5)], ids=str)
@pytest.mark.parametrize("preconditioned", [False, True])
def test_resumed_equals_uninterrupted(
    new_net: NewNet, tmp_path: Any, stop: int, penalty: Penalty, preconditioned: bool
) -> None:
    def setting() -> tuple[Any, Optimizer, ProximalSolver]:
        net = new_net()
        adam = Adam(net.parameters(), lr=0.05)
        solver = ProximalSolver(
            net.units(),
            penalty,
            0.5,
            Linear(end="2ep"),
            preconditioned=preconditioned,
            freeze_at=7,
            run=RunLength(steps_per_epoch=3),
        )
        return net, adam, solver

    whole, adam, solver = setting()
    solver.attach(adam)
    train(whole, adam, range(12))

    net, adam, solver = setting()
    solver.attach(adam)
    train(net, adam, range(stop))
    state = {"net": net.state_dict(), "adam": adam.state_dict(), "solver": solver.state_dict()}
    torch.save(state, tmp_path / "x.pt")
    state = torch.load(tmp_path / "x.pt", weights_only=True)  # numbers, lists and tensors only

    net, adam, solver = setting()
    net.load_state_dict(state["net"])
    solver.load_state_dict(state["solver"])
    solver.attach(adam)
    adam.load_state_dict(state["adam"])
    assert (solver.step_count, solver.frozen) == (stop, stop >= 7)
    train(net, adam, range(stop, 12))
    assert torch.equal(net.flat(), whole.flat())


def test_masks_of_another_partition_are_refused(new_net: NewNet) -> None:
    solver = ProximalSolver(new_net().units(), GroupLasso(), 1.0)
    state = {"step_counts": [1], "strength": 1.0, "masks": [torch.ones(5, 1), torch.ones(6)]}
    with pytest.raises(ValueError, match="do not fit this partition's parameters"):
        solver.load_state_dict(state)


@pytest.mark.parametrize("count", [0, 2, 4, 6])
def test_target_groups_freeze_at_the_first_step_with_so_few_left(new_net: NewNet, count: int) -> None:
    net, twin = new_net(), new_net()
    optimizer, other = SGD(net.parameters(), lr=0.1), SGD(twin.parameters(), lr=0.1)
    rising = Linear(end="300it")
    solver = ProximalSolver(net.units(), GroupLasso(), 30.0, rising, target_groups=count)
    free = ProximalSolver(twin.units(), GroupLasso(), 30.0, rising)
    solver.attach(optimizer)
    free.attach(other)
    for step in range(300):
        if solver.frozen:
            break
        assert int(solver.groups.alive().sum()) > count
        assert solver.current_strength == free.current_strength
        train(net, optimizer, range(step, step + 1))
        train(twin, other, range(step, step + 1))
        assert torch.equal(net.flat(), twin.flat())  # up to there it changes nothing
    assert solver.frozen
    alive = solver.groups.alive()
    assert int(alive.sum()) <= count
    train(net, optimizer, range(300, 320))
    assert torch.equal(solver.groups.alive(), alive)
    assert solver.current_strength == 0


def test_target_groups_do_not_take_tiny_weights_for_zeros(new_net: NewNet) -> None:
    net = new_net()
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(1e-30)  # its square is 0 in single precision
    solver = ProximalSolver(net.units(), GroupLasso(), 1.0, target_groups=3)
    solver.attach(SGD(net.parameters(), lr=0.0))
    assert not solver.frozen


def test_target_groups_are_a_number_of_groups(new_net: NewNet) -> None:
    with pytest.raises(ValueError, match="target_groups must be a whole number of groups >= 0, got -1"):
        ProximalSolver(new_net().units(), GroupLasso(), 1.0, target_groups=-1)

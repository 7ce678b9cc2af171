from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer
from torch.optim.lr_scheduler import ExponentialLR

from ssl_prune.groups import Member, Partition
from ssl_prune.penalties import GroupLasso, SparseGroupLasso
from ssl_prune.schedules import Constant, Linear
from ssl_prune.solvers import ProximalSolver, SubgradientSolver
from ssl_prune.timing import RunLength

NewNet = Callable[[], Any]


def shrink_by_hand(net: Any, step: float) -> None:
    with torch.no_grad():
        for g in range(6):
            norm = torch.cat([net.a.weight[g], net.a.bias[g : g + 1]]).norm()
            factor = max(0.0, 1 - step / float(norm)) if norm > 0 else 0.0
            net.a.weight[g] *= factor
            net.a.bias[g] *= factor


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_hand_written_loop_under_accumulation(new_net: NewNet, kind: type[Optimizer], parts: int) -> None:
    net, by_hand = new_net(), new_net()
    ours, theirs = kind(net.parameters(), lr=0.05), kind(by_hand.parameters(), lr=0.05)  # type: ignore[call-arg]
    solver = ProximalSolver(net.units(), GroupLasso(), 2.0)
    solver.attach(ours)
    for step in range(20):
        net.backward(step, parts)
        by_hand.backward(step, parts)
        ours.step()
        theirs.step()
        GroupLasso().prox(by_hand.units(), 2.0 * 0.05)
        assert torch.equal(net.flat(), by_hand.flat())  # bit for bit
    assert solver.step_count == 20
    assert not solver.groups.alive().all()


def test_the_lr_of_the_step_that_was_taken(new_net: NewNet) -> None:
    net, by_hand = new_net(), new_net()
    ours, theirs = SGD(net.parameters(), lr=0.2, momentum=0.9), SGD(by_hand.parameters(), lr=0.2, momentum=0.9)
    schedulers = ExponentialLR(ours, 0.8), ExponentialLR(theirs, 0.8)
    ProximalSolver(net.units(), GroupLasso(), 0.1).attach(ours)
    for step in range(15):
        net.backward(step)
        by_hand.backward(step)
        ours.step()
        theirs.step()
        shrink_by_hand(by_hand, 0.1 * 0.2 * 0.8**step)
        for scheduler in schedulers:
            scheduler.step()
    torch.testing.assert_close(net.flat(), by_hand.flat())


def test_tensor_lr_equals_number(new_net: NewNet) -> None:
    found = []
    for lr in (0.05, torch.tensor(0.05)):
        net = new_net()
        adam = Adam(net.parameters(), lr=lr)
        ProximalSolver(net.units(), SparseGroupLasso(), 0.2).attach(adam)
        for step in range(5):
            net.backward(step)
            adam.step()
        found.append(net.flat())
    torch.testing.assert_close(*found)


def test_strength_zero_is_the_identity_bit_for_bit(new_net: NewNet) -> None:
    for strength, schedule in ((0.0, Constant()), (1.0, Constant(start="100it"))):
        net, plain = new_net(), new_net()
        net.a.weight.data[0, 0] = plain.a.weight.data[0, 0] = -0.0
        ours, theirs = SGD(net.parameters(), lr=0.1), SGD(plain.parameters(), lr=0.1)
        ProximalSolver(net.units(), SparseGroupLasso(), strength, schedule).attach(ours)
        versions = [p._version for p in net.parameters()]
        ours.step()  # no gradients: a step that changes nothing
        assert [p._version for p in net.parameters()] == versions
        for step in range(3):
            net.backward(step)
            plain.backward(step)
            ours.step()
            theirs.step()
        assert torch.equal(net.flat(), plain.flat())


def test_schedule_multiplies_and_counts_optimizer_steps(new_net: NewNet) -> None:
    net = new_net()
    sgd = SGD(net.parameters(), lr=0.1)
    solver = ProximalSolver(net.units(), GroupLasso(), 2.0, Linear(end="2ep"), run=RunLength(steps_per_epoch=5))
    solver.attach(sgd)
    seen = []
    for _ in range(12):
        seen.append(solver.current_strength)
        sgd.step()
    assert seen == pytest.approx([2.0 * min(1, s / 10) for s in range(12)])


def test_attach_names_what_is_missing(new_net: NewNet) -> None:
    net = new_net()
    solver = ProximalSolver(net.units(), GroupLasso(), 1.0)
    with pytest.raises(ValueError, match=r"a\.bias is in none of the attached optimizers"):
        solver.attach(SGD([net.a.weight], lr=0.1))
    with pytest.raises(ValueError, match="a unit 0 spans two of the attached optimizers"):
        solver.attach(SGD([net.a.weight], lr=0.1), SGD([net.a.bias], lr=0.1))
    with pytest.raises(ValueError, match=r"shape \(6, 4\) is in two"):
        solver.attach(SGD(net.parameters(), lr=0.1), SGD([net.a.weight], lr=0.1))
    with pytest.raises(TypeError, match="expected torch optimizers, got Net"):
        solver.attach(net)
    solver.attach(SGD(net.parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match="attached already"):
        solver.attach(SGD(net.parameters(), lr=0.1))


def test_detach_stops(new_net: NewNet) -> None:
    net = new_net()
    sgd = SGD(net.parameters(), lr=0.1)
    solver = ProximalSolver(net.units(), GroupLasso(), 1.0)
    solver.attach(sgd)
    solver.detach()
    before = net.flat()
    sgd.step()
    assert torch.equal(net.flat(), before)
    solver.attach(sgd)
    sgd.step()
    assert solver.step_count == 1


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_bad_strength(new_net: NewNet, strength: float) -> None:
    groups = new_net().units()
    with pytest.raises(ValueError, match="strength must be a finite number >= 0"):
        ProximalSolver(groups, GroupLasso(), strength)
    solver = ProximalSolver(groups, GroupLasso(), 1.0)
    with pytest.raises(ValueError, match="strength must be"):
        solver.strength = strength


@pytest.mark.parametrize("strength", [1e39, 1e300])
def test_a_strength_beyond_the_numbers_of_the_parameters(new_net: NewNet, strength: float) -> None:
    for build in (ProximalSolver, SubgradientSolver):
        with pytest.raises(ValueError, match=r"strength must be at most 3\.4e\+38.*got 1e\+3"):
            build(new_net().units(), GroupLasso(), strength)


def test_bad_arguments(new_net: NewNet) -> None:
    groups = new_net().units()
    with pytest.raises(TypeError, match=r"penalty must be an object of ssl_prune.penalties"):
        ProximalSolver(groups, GroupLasso, 1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"schedule must be an object of ssl_prune.schedules"):
        ProximalSolver(groups, GroupLasso(), 1.0, "linear")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="freeze_at must be"):
        ProximalSolver(groups, GroupLasso(), 1.0, freeze_at=-1)
    net = new_net()
    solver = ProximalSolver(net.units(), GroupLasso(), 1.0, preconditioned=True)
    with pytest.raises(TypeError, match="got NAdam; leave it at False"):
        solver.attach(NAdam(net.parameters()))


def test_nan_is_not_hidden(new_net: NewNet) -> None:
    net = new_net()
    sgd = SGD(net.parameters(), lr=0.1)
    ProximalSolver(net.units(), SparseGroupLasso(), 100.0).attach(sgd)
    net.backward(0)
    net.a.weight.grad[2, 1] = torch.nan
    sgd.step()
    assert net.a.weight[2].isnan().any()
    assert not net.a.weight[[0, 1, 3, 4, 5]].any()


def test_parameters_without_gradient_still_shrink() -> None:
    layer = nn.Linear(2, 2, bias=False)
    groups = Partition(
        [Member("weight", layer.weight, torch.tensor([[0], [1]]))], ("",), torch.zeros(2, dtype=torch.long), "row"
    )
    sgd = SGD(layer.parameters(), lr=1.0)
    ProximalSolver(groups, GroupLasso(), 0.1).attach(sgd)
    norms = groups.norms()
    sgd.step()
    torch.testing.assert_close(groups.norms(), (norms - 0.1).clamp(min=0))

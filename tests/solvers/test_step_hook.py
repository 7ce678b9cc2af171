"""The moment after a step: what a mask does there, beside loops written by hand, bit for bit."""

from copy import deepcopy

import pytest
import torch
from torch.optim import SGD, Adam, AdamW

from ssl_prune.groups import Member, Partition, partition
from ssl_prune.masks import Mask
from ssl_prune.penalties import L1, GroupLasso, SparseGroupLasso
from ssl_prune.shrinking import Source, carry
from ssl_prune.solvers import ProximalSolver, StepHook

ALIVE = torch.tensor([True, False, True, True, False, True])
KINDS = {
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: Adam(p, lr=0.05, amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=0.05, fused=True),
}


class Numbers(StepHook):
    """Notes the number of each step."""

    def __init__(self, groups):
        super().__init__(groups)
        self.seen = []

    def _act(self, binding, step):
        self.seen.append((binding.positions, step))


def hooked(net, *optimizers, **roles):
    groups = net.units()
    hook = StepHook(groups, Mask(groups, ALIVE, **roles))
    hook.attach(*optimizers)
    return hook


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_mask_is_held_as_in_a_loop_written_by_hand(new_net, kind, gradient, parts):
    net, twin = new_net(), new_net()
    optimizer, other = (KINDS[kind](each.parameters()) for each in (net, twin))
    hook = hooked(net, optimizer, gradient=gradient)
    for step in range(6):
        net.backward(step, parts)
        twin.backward(step, parts)
        if gradient:
            twin.a.weight.grad.mul_(ALIVE[:, None])
            twin.a.bias.grad.mul_(ALIVE)
        optimizer.step()
        other.step()
        with torch.no_grad():
            twin.a.weight.mul_(ALIVE[:, None])
            twin.a.bias.mul_(ALIVE)
        assert torch.equal(net.flat(), twin.flat())
    assert hook.step_count == 6
    hook.detach()
    net.backward(9)
    optimizer.step()
    assert hook.step_count == 6
    assert net.a.weight[1].any() or gradient


def test_with_a_closure_gradients_are_masked_when_asked(new_net):
    net, twin = new_net(), new_net()
    sgd, other = SGD(net.parameters(), lr=0.1, momentum=0.9), SGD(twin.parameters(), lr=0.1, momentum=0.9)
    hook = hooked(net, sgd, gradient=True)
    norms = []

    def closure():
        net.backward(0)
        norms.append(net.a.weight.grad[1].norm())  # dense, as growing needs them
        hook.before_step(sgd)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)

    sgd.step(closure)
    twin.backward(0)
    twin.a.weight.grad.mul_(ALIVE[:, None])
    twin.a.bias.grad.mul_(ALIVE)
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
    other.step()
    twin.a.weight.data.mul_(ALIVE[:, None])
    twin.a.bias.data.mul_(ALIVE)
    assert norms[0] > 0
    assert torch.equal(net.flat(), twin.flat())
    assert not sgd.state[net.a.weight]["momentum_buffer"][1].any()

    stale = net.a.weight.grad.fill_(1.0)
    sgd.step(lambda: None)  # nobody asks: whatever the closure leaves is stepped
    assert stale.all()


def test_each_of_several_optimizers_is_acted_on_after_its_own_step(new_net):
    net = new_net()
    first, second, third = (SGD(p, lr=0.1) for p in ([net.a.weight], [net.b.weight, net.b.bias], [net.a.bias]))
    groups = Partition(
        [Member("a.weight", net.a.weight, None), Member("b.weight", net.b.weight, None)],
        ("a", "b"), torch.tensor([0, 1]), "weight",
    )  # fmt: skip
    hook = StepHook(groups, Mask(groups, torch.zeros(36, dtype=torch.bool)))
    hook.attach(first, second, third)
    net.backward(0)
    second.step()
    assert not net.b.weight.any()
    assert net.a.weight.any()  # its optimizer has not stepped
    third.step()
    third.step()
    assert (hook.step_count, hook.state_dict()["step_counts"]) == (2, [0, 1, 2])
    first.step()
    assert not net.a.weight.any()

    notes = Numbers(groups)
    notes.attach(first, second, third)
    for optimizer in (second, first, second, third):
        optimizer.step()
    assert notes.seen == [([1], 0), ([0], 0), ([1], 1)]


def test_steps_that_a_scaler_skips_do_not_count(new_net):
    net = new_net()
    sgd, other = SGD([net.a.weight, net.a.bias], lr=0.1, fused=True), SGD([net.b.weight], lr=0.1, fused=True)
    hook = hooked(net, sgd, other)
    net.backward(0)
    for found, counts in ((1.0, [0, 0]), (0.0, [1, 1])):
        for optimizer in (sgd, other):
            optimizer.found_inf = torch.tensor(found)  # as GradScaler.step does for fused optimizers
            optimizer.step()
        assert hook.state_dict()["step_counts"] == counts
        assert bool(net.a.weight[1].any()) == (counts == [0, 0])


@pytest.mark.parametrize("stop", [1, 4])
@pytest.mark.parametrize("storage", ["zero", "dense"])
def test_resumed_equals_uninterrupted(new_net, tmp_path, stop, storage):
    def setting():
        net = new_net()
        adam = Adam(net.parameters(), lr=0.05)
        return net, adam, hooked(net, adam, storage=storage)

    def train(net, adam, hook, steps):
        for step in steps:
            if step == 3:
                hook.mask.update(~ALIVE)
            net.backward(step)
            adam.step()

    whole = setting()
    train(*whole, range(8))
    net, adam, hook = setting()
    train(net, adam, hook, range(stop))
    torch.save({"net": net.state_dict(), "adam": adam.state_dict(), "hook": hook.state_dict()}, tmp_path / "x.pt")
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    net, adam, hook = setting()
    net.load_state_dict(state["net"])
    adam.load_state_dict(state["adam"])
    hook.load_state_dict(state["hook"])
    train(net, adam, hook, range(stop, 8))
    assert hook.step_count == 8
    assert torch.equal(net.flat(), whole[0].flat())
    assert hook.mask.masks["a.bias"].tolist() == (~ALIVE).tolist()


def cut(net, rows):
    """The first layer with some rows only, in place, and where its entries stood."""
    index = torch.arange(24).view(6, 4)[rows]
    origin = {
        "a.weight": Source("a.weight", torch.Size([6, 4]), index),
        "a.bias": Source("a.bias", torch.Size([6]), torch.tensor(rows)),
    }
    for name, source in origin.items():
        param = net.get_parameter(name)
        param.data, param.grad = source.take(param.data), None
    net.b.weight.data, net.b.weight.grad = net.b.weight.data[:, rows].contiguous(), None
    return origin


def test_a_mask_follows_the_network_through_a_cut(new_net):
    net, twin = new_net(), new_net()
    sgd, other = (SGD(each.parameters(), lr=0.1, weight_decay=0.1) for each in (net, twin))
    hook = hooked(net, sgd)
    for each, optimizer in ((net, sgd), (twin, other)):
        each.backward(0)
        optimizer.step()
    twin.a.weight.data[~ALIVE] = twin.a.bias.data[~ALIVE] = 0
    rows = [0, 1, 3]  # the second of them is dead, and stays for some reason
    origin, _ = cut(net, rows), cut(twin, rows)
    hook.rebind(carry(hook.groups, origin, net), origin)
    assert hook.mask.masks["a.bias"].tolist() == [True, False, True]
    for step in range(1, 4):
        for each, optimizer in ((net, sgd), (twin, other)):
            each.backward(step)
            optimizer.step()
        twin.a.weight.data[1] = twin.a.bias.data[1] = 0
        assert torch.equal(net.flat(), twin.flat())
    assert hook.step_count == 4
    assert len(sgd._optimizer_step_post_hooks) == len(sgd._optimizer_step_pre_hooks) == 1


def test_a_mask_that_zeros_do_not_tell_is_not_read_from_them(new_net):
    net = new_net()
    hook = hooked(net, SGD(net.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"StepHook: its mask cannot be read .* give rebind\(\) the origin"):
        hook.rebind(net.units())


def test_a_hook_is_attached_once(new_net):
    net = new_net()
    hook = hooked(net, SGD(net.parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match="this StepHook is attached already: call detach"):
        hook.attach(SGD(net.parameters(), lr=0.1))


# As solvers wrote them before masks were objects: a tensor a member that broadcasts to it.
UNFROZEN = {"step_counts": [4], "strength": 0.25, "masks": None, "alive": None}
GROUPS = {
    "step_counts": [4], "strength": 0.25, "alive": 4,
    "masks": [torch.tensor([[1.0], [0.0], [1.0], [1.0], [0.0], [1.0]]), torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])],
}  # fmt: skip
ENTRIES = {
    "step_counts": [4], "strength": 0.25, "alive": 4,
    "masks": [
        torch.tensor([[1.0, 1.0, 0.0, 1.0], [0.0] * 4, [1.0] * 4, [0.0, 1.0, 1.0, 1.0], [0.0] * 4, [1.0] * 4]),
        torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("state", "penalty"), [(GROUPS, GroupLasso()), (ENTRIES, SparseGroupLasso(0.5))])
def test_masks_of_earlier_checkpoints_are_taken_over(new_net, state, penalty):
    net, twin = new_net(), new_net()
    solver = ProximalSolver(net.units(), penalty, 1.0)
    solver.load_state_dict(state)
    assert (solver.step_count, solver.strength, solver.frozen) == (4, 0.25, True)
    masks = [m.expand(p.shape) for m, p in zip(state["masks"], (net.a.weight, net.a.bias), strict=True)]
    assert [m.tolist() for m in solver.mask.masks.values()] == [(m == 1).tolist() for m in masks]
    assert solver.mask.alive.tolist() == ALIVE.tolist()
    sgd, other = SGD(net.parameters(), lr=0.1, momentum=0.9), SGD(twin.parameters(), lr=0.1, momentum=0.9)
    solver.attach(sgd)
    for step in range(3):
        net.backward(step)
        twin.backward(step)
        sgd.step()
        other.step()
        twin.a.weight.data.mul_(masks[0])
        twin.a.bias.data.mul_(masks[1])
        assert torch.equal(net.flat(), twin.flat())
    new = solver.state_dict()
    again = ProximalSolver(net.units(), penalty, 1.0)
    again.load_state_dict(new)
    assert again.state_dict()["alive"] == 4
    assert {n: m.tolist() for n, m in again.mask.masks.items()} == {n: m.tolist() for n, m in solver.mask.masks.items()}


def test_earlier_checkpoints_without_masks_are_taken_over(new_net):
    solver = ProximalSolver(new_net().units(), GroupLasso(), 1.0)
    solver.load_state_dict(UNFROZEN)
    assert (solver.step_count, solver.strength, solver.frozen) == (4, 0.25, False)


def test_masks_of_single_entries_of_earlier_checkpoints(new_net):
    net = new_net()
    groups = Partition([Member("a.weight", net.a.weight, None)], ("a",), torch.tensor([0]), "weight")
    mask = (torch.arange(24).view(6, 4) % 3 > 0).float()
    solver = ProximalSolver(groups, L1(), 1.0)
    solver.load_state_dict({"step_counts": [2], "strength": 1.0, "masks": [mask], "alive": 16})
    assert torch.equal(solver.mask.alive, mask.flatten() == 1)


def test_zeros_that_only_the_weights_tell_are_read_from_them(new_net):
    """What sharded parameters save: the number of groups that are left."""
    net = new_net()
    state = {"step_counts": [4], "strength": 0.25, "masks": None, "alive": 4}
    solver = ProximalSolver(net.units(), GroupLasso(), 1.0)
    with pytest.raises(ValueError, match="frozen all but 4 groups, but 6 are not zero"):
        solver.load_state_dict(state)
    assert (solver.frozen, solver.step_count) == (False, 0)
    net.a.weight.data[[1, 4]] = net.a.bias.data[[1, 4]] = 0
    solver.load_state_dict(state)
    assert solver.mask.alive.tolist() == ALIVE.tolist()
    assert solver.state_dict()["alive"] == 4


def test_a_mask_of_another_partition_is_refused():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    neurons, entries, others = partition(net, "neuron"), partition(net, "weight"), partition(deepcopy(net), "neuron")
    for groups in (entries, others):
        with pytest.raises(ValueError, match="make the mask of the groups"):
            StepHook(neurons, Mask(groups, torch.ones(groups.num_groups, dtype=torch.bool)))

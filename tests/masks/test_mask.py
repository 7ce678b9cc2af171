"""What a mask does to weights, gradients, optimizers and files, beside loops written by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam

from ssl_prune.groups import Member, Partition, partition
from ssl_prune.masks import Mask, check_agreement, clear_state
from ssl_prune.masks import mask as module
from ssl_prune.masks.optimizer_state import touched
from ssl_prune.shrinking import Source, carry
from ssl_prune.utils.bits import packed, unpacked

ALIVE = torch.tensor([True, False, True, True, False])


def by_hand(alive=ALIVE):
    """Of the weight and the bias of the first layer; the last row is in no group."""
    rows = torch.cat([alive, torch.tensor([True])])
    return rows[:, None].expand(6, 4), rows


def single(seed, net):
    groups = net.singles()
    return Mask(groups, torch.rand(groups.num_groups, generator=torch.Generator().manual_seed(seed)) < 0.5)


@pytest.mark.parametrize("costs", [False, True])
def test_what_is_dead_is_zero_and_nothing_else_is_touched(new_net, monkeypatch, costs):
    monkeypatch.setattr(module, "launching_costs", lambda device: costs)
    net, twin = new_net(), new_net()
    weight, bias = by_hand()
    mask = Mask(net.units(), ALIVE)
    mask.apply()
    with torch.no_grad():
        twin.a.weight.mul_(weight)
        twin.a.bias.mul_(bias)
    assert torch.equal(net.flat(), twin.flat())
    assert {name: m.tolist() for name, m in mask.masks.items()} == {
        "a.weight": weight.tolist(),
        "a.bias": bias.tolist(),
    }
    assert mask.sparsity == (2 * 4 + 2) / (6 * 4 + 6)


@pytest.mark.parametrize("costs", [False, True])
def test_members_without_anything_dead_are_left_alone(new_net, monkeypatch, costs):
    monkeypatch.setattr(module, "launching_costs", lambda device: costs)
    net = new_net()
    alive = torch.ones(36, dtype=torch.bool)
    alive[30] = False  # of the second layer
    net.a.weight.data[0, 0] = torch.nan  # whatever is there
    mask = Mask(net.singles(), alive)
    version = net.a.weight._version
    mask.apply()
    assert net.a.weight._version == version
    assert net.b.weight.flatten()[6] == 0
    Mask(net.singles(), torch.ones(36, dtype=torch.bool)).apply()


def test_single_entries_are_groups_of_their_own(new_net):
    net, twin = new_net(), new_net()
    mask = single(3, net)
    mask.apply()
    with torch.no_grad():
        twin.a.weight.mul_(mask.alive[:24].view(6, 4))
        twin.b.weight.mul_(mask.alive[24:].view(2, 6))
    assert torch.equal(net.flat(), twin.flat())
    assert mask.sparsity == int((~mask.alive).sum()) / 36


def test_a_mask_holds_in_the_precision_that_the_parameters_have(new_net):
    net = new_net()
    mask = Mask(net.units(), ALIVE, storage="dense")
    mask.apply()
    net.bfloat16()
    net.a.bias.data.fill_(1)
    mask.apply()
    assert net.a.bias.dtype == torch.bfloat16
    assert net.a.bias.tolist() == [1, 0, 1, 1, 0, 1]


def test_zeros_of_groups_and_of_single_entries(new_net):
    net = new_net()
    with torch.no_grad():
        net.a.weight[1] = net.a.bias[1] = 0  # a dead group
        net.a.weight[2, 3] = net.a.weight[5, 1] = 0  # single entries, the second of no group
        net.a.bias[3] = 0  # a shift that happens to be 0
    groups = Mask.of_zeros(net.units())
    assert groups.alive.tolist() == [True, False, True, True, True]
    assert groups.masks["a.weight"].logical_not().nonzero().tolist() == [[1, 0], [1, 1], [1, 2], [1, 3]]
    entries = Mask.of_zeros(net.units(), entrywise=True)
    assert entries.masks["a.weight"].logical_not().nonzero().tolist() == [[1, 0], [1, 1], [1, 2], [1, 3], [2, 3]]
    assert entries.masks["a.bias"].tolist() == [True, False, True, True, True, True]
    assert entries.sparsity == 6 / 30
    assert Mask.of_zeros(net.singles(), entrywise=True).entries is None


def test_gradients_are_masked_only_in_that_role(new_net):
    net, twin = new_net(), new_net()
    for each in (net, twin):
        each.backward(0)
    Mask(net.units(), ALIVE).mask_gradients()
    assert torch.equal(net.a.weight.grad, twin.a.weight.grad)  # dense, as growing needs them
    mask = Mask(net.units(), ALIVE, gradient=True)
    mask.mask_gradients()
    weight, bias = by_hand()
    assert torch.equal(net.a.weight.grad, twin.a.weight.grad * weight)
    assert torch.equal(net.a.bias.grad, twin.a.bias.grad * bias)
    assert torch.equal(net.b.weight.grad, twin.b.weight.grad)
    net.a.bias.grad = None
    mask.mask_gradients()


def test_without_the_forward_role_weights_stay(new_net):
    net, twin = new_net(), new_net()
    mask = Mask(net.units(), ALIVE, forward=False)
    mask.apply()
    assert torch.equal(net.flat(), twin.flat())
    mask.forward = True
    mask.apply()
    assert not net.a.weight[1].any()


@pytest.mark.parametrize("costs", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weights_behind_the_mask_go_on_moving_as_in_dynamic_surgery(new_net, monkeypatch, costs, momentum):
    """The loop of the source: the loss sees w·m, every entry of w is stepped, and the mask changes on the way."""
    monkeypatch.setattr(module, "launching_costs", lambda device: costs)
    net, twin = new_net().double(), new_net().double()
    sgd, other = (SGD(each.parameters(), lr=0.1, momentum=momentum) for each in (net, twin))
    mask = Mask(net.units(), ALIVE, storage="dense")
    mask.apply()
    dense = [twin.a.weight.detach().clone(), twin.a.bias.detach().clone()]
    turns = {4: torch.tensor([False, True, True, False, False]), 8: torch.tensor([True, True, False, True, False])}
    alive = ALIVE
    for step in range(12):
        if step in turns:
            before, alive = alive, turns[step]
            died, born = mask.update(alive)
            assert torch.equal(died, before & ~alive)
            assert torch.equal(born, alive & ~before)
        hand = by_hand(alive)
        with torch.no_grad():
            twin.a.weight.copy_(dense[0] * hand[0])
            twin.a.bias.copy_(dense[1] * hand[1])
        torch.testing.assert_close(net.a.weight, twin.a.weight, rtol=1e-12, atol=1e-14)
        net.backward(step)
        twin.backward(step)
        with torch.no_grad():
            twin.a.weight.copy_(dense[0])
            twin.a.bias.copy_(dense[1])
        other.step()
        dense = [twin.a.weight.detach().clone(), twin.a.bias.detach().clone()]
        sgd.step()
        mask.apply()
        assert not net.a.weight.detach()[:5][~alive].any()
    for found, expected in zip(mask.dense(), dense, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    mask.forward = False
    torch.testing.assert_close(net.a.weight.detach(), dense[0], rtol=1e-12, atol=1e-14)


def test_weights_that_are_forgotten_come_back_as_zeros(new_net):
    net = new_net()
    mask = Mask(net.units(), ALIVE)
    mask.apply()
    died, born = mask.update(~ALIVE)
    assert torch.equal(died, ALIVE)
    assert torch.equal(born, ~ALIVE)
    assert not net.a.weight[:5].any()
    assert net.a.weight[5].all()


def test_state_of_the_dead_and_of_the_born_is_cleared(new_net):
    net, groups = new_net(), None
    adam = Adam(net.parameters(), lr=0.1, amsgrad=True)
    for step in range(2):
        net.backward(step)
        adam.step()
    before = {p: {k: v.clone() for k, v in adam.state[p].items()} for p in net.parameters()}
    groups = net.units()
    Mask(groups, ALIVE).clear_state(adam)
    weight, bias = by_hand()
    for param, mask in ((net.a.weight, weight), (net.a.bias, bias)):
        for key, value in adam.state[param].items():
            assert torch.equal(value, before[param][key] * mask if value.shape == param.shape else before[param][key])
    Mask(groups, ALIVE).clear_state(adam, torch.tensor([True, False, False, False, False]))
    assert not adam.state[net.a.weight]["exp_avg"][0].any()
    assert adam.state[net.a.weight]["exp_avg"][[2, 3, 5]].all()
    assert all(torch.equal(v, before[net.b.weight][k]) for k, v in adam.state[net.b.weight].items())
    chosen = torch.zeros(36, dtype=torch.bool)
    chosen[30] = True
    clear_state(net.singles(), adam, chosen)
    assert (adam.state[net.b.weight]["exp_avg_sq"] == 0).nonzero().tolist() == [[1, 0]]


@given(st.integers(0, 2**31))
@settings(max_examples=30)
def test_members_touched_are_those_with_entries_of_the_groups(seed):
    generator = torch.Generator().manual_seed(seed)
    index = [torch.randint(-1, 6, (n, 1), generator=generator) for n in (1, 3, 5)]
    members = [Member(f"m{i}", nn.Parameter(torch.ones(len(x), 2)), x) for i, x in enumerate(index)]
    groups = Partition(members, ("m",), torch.zeros(6, dtype=torch.long), "group", allow_empty=True)
    chosen = torch.rand(6, generator=generator) < 0.3
    wanted = [i for i, x in enumerate(index) if any(g >= 0 and chosen[g] for g in x.flatten().tolist())]
    assert touched(groups, chosen) == wanted


def cut(net, rows):
    """The first layer with some rows only, and where its entries stood."""
    smaller = type(net)(net.groups)
    smaller.a, smaller.b = nn.Linear(4, len(rows)), nn.Linear(len(rows), 2)
    index = torch.arange(24).view(6, 4)[rows]
    origin = {
        "a.weight": Source("a.weight", torch.Size([6, 4]), index),
        "a.bias": Source("a.bias", torch.Size([6]), torch.tensor(rows)),
        "b.weight": Source("b.weight", torch.Size([2, 6]), torch.arange(12).view(2, 6)[:, rows]),
        "b.bias": Source("b.bias", torch.Size([2]), torch.arange(2)),
    }
    return smaller, origin


@pytest.mark.parametrize("kind", ["units", "singles"])
@pytest.mark.parametrize("storage", ["zero", "dense"])
def test_a_mask_follows_a_cut(new_net, kind, storage):
    net = new_net()
    groups = getattr(net, kind)()
    generator = torch.Generator().manual_seed(5)
    alive = torch.rand(groups.num_groups, generator=generator) < 0.6
    entries = None
    if kind == "units":
        entries = [torch.rand(6, 4, generator=generator) < 0.7, None]
    mask = Mask(groups, alive, entries=entries, gradient=True, storage=storage)
    whole = [m.values.detach().clone() for m in groups.members]
    mask.apply()
    rows = [0, 2, 5]
    smaller, origin = cut(net, rows)
    left = carry(groups, origin, smaller)
    with torch.no_grad():
        for name, param in smaller.named_parameters():
            param.copy_(origin[name].take(dict(net.named_parameters())[name]))
    after = mask.remap(left, origin)
    taken = {name: origin[name].take(bits) for name, bits in mask.masks.items()}
    assert {n: m.tolist() for n, m in after.masks.items()} == {n: m.tolist() for n, m in taken.items()}
    assert (after.gradient, after.storage, after.forward) == (True, storage, True)
    if kind == "units":
        assert torch.equal(after.alive, alive)  # numbers stay
    if storage == "dense":
        for member, values, before in zip(left.members, after.dense(), whole, strict=True):
            assert torch.equal(values, origin[member.name].take(before))


@pytest.mark.parametrize("storage", ["zero", "dense"])
@pytest.mark.parametrize("kind", ["units", "singles"])
def test_a_state_is_plain_data_and_comes_back(new_net, tmp_path, kind, storage):
    net = new_net()
    groups = getattr(net, kind)()
    alive = torch.arange(groups.num_groups) % 3 > 0
    entries = [torch.arange(24).view(6, 4) % 5 > 0, None] if kind == "units" else None
    mask = Mask(groups, alive, entries=entries, gradient=True, storage=storage)
    mask.apply()
    torch.save(mask.state_dict(), tmp_path / "mask.pt")
    state = torch.load(tmp_path / "mask.pt", weights_only=True)
    again, dense = Mask.from_state(groups, state), [values.clone() for values in mask.dense()]
    assert {n: m.tolist() for n, m in again.masks.items()} == {n: m.tolist() for n, m in mask.masks.items()}
    assert (again.gradient, again.storage, again.forward) == (True, storage, True)
    assert all(torch.equal(a, b) for a, b in zip(again.dense(), dense, strict=True))
    again.forward = False
    assert all(torch.equal(a, m.values) for a, m in zip(dense, groups.members, strict=True))


def test_a_state_of_another_partition_is_refused(new_net):
    net = new_net()
    units, singles = Mask(net.units(), ALIVE).state_dict(), single(0, net).state_dict()
    with pytest.raises(ValueError, match=r"does not fit Partition\(5 unit groups.*: it has 36 groups"):
        Mask.from_state(net.units(), singles)
    with pytest.raises(ValueError, match="it has 5 groups"):
        Mask.from_state(net.singles(), units)
    with pytest.raises(ValueError, match="keeps weights of shapes"):
        Mask.from_state(net.units(), {**units, "storage": "dense", "hidden": [torch.zeros(2, 2), torch.zeros(6)]})
    with pytest.raises(ValueError, match=r"got \(1,\) bytes of torch.uint8, expected \(3,\)"):
        Mask.from_state(net.units(), {**units, "entries": [torch.zeros(1, dtype=torch.uint8), None]})


@pytest.mark.parametrize(
    ("alive", "options", "message"),
    [
        (torch.ones(5), {}, r"5 unit groups.*: alive must be \(5,\) bool, got \(5,\) torch.float32"),
        (torch.ones(4, dtype=torch.bool), {}, r"got \(4,\) torch.bool"),
        ([True] * 5, {}, r"alive must be a bool tensor of shape \(5,\), got \[True"),
        (ALIVE, {"entries": [None, [True]]}, r"a.bias: entries must be a bool tensor of shape \(6,\), got \[True"),
        (ALIVE, {"storage": "sparse"}, 'storage must be "zero" or "dense", got \'sparse\''),
        (ALIVE, {"entries": [None]}, "one tensor or None a member: 2, got 1"),
        (ALIVE, {"entries": [None, torch.ones(6)]}, r"a.bias: entries must be \(6,\) bool, got \(6,\) torch.float32"),
    ],
)
def test_what_does_not_fit_is_refused(new_net, alive, options, message):
    with pytest.raises(ValueError, match=message):
        Mask(new_net().units(), alive, **options)


def test_all_processes_have_one_mask(new_net):
    net = new_net()
    one = Mask(net.units(), ALIVE)
    sent = []

    def keep(numbers):
        sent.append(numbers)
        return numbers[None]

    check_agreement(one, keep)
    for other in (Mask(net.units(), ~ALIVE), Mask(net.units(), ALIVE, entries=[torch.arange(24).view(6, 4) > 0, None])):
        with pytest.raises(ValueError, match=r"a.weight: processes \[1\] have another mask there than process 0"):
            check_agreement(other, lambda numbers: torch.stack([sent[0], numbers, sent[0]]))


@given(st.lists(st.booleans(), max_size=40))
@settings(max_examples=50)
def test_packed_bits_come_back(bits):
    tensor = torch.tensor(bits, dtype=torch.bool)
    assert len(packed(tensor)) == -(-len(bits) // 8)
    assert unpacked(packed(tensor), tensor.shape).tolist() == bits


def test_masks_of_a_coupled_network_hold_through_training():
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3))
    x = torch.randn(4, 1, 7, 7)
    groups = partition(net, "coupled", example_inputs=x)
    mask = Mask(groups, torch.arange(6) % 2 == 0, gradient=True)
    sgd = SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    mask.apply()
    for _ in range(3):
        sgd.zero_grad()
        net(x).square().mean().backward()
        mask.mask_gradients()
        sgd.step()
        mask.apply()
    assert torch.equal(groups.alive(), mask.alive)

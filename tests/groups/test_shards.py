"""What a partition of DTensors refuses, in one process; that it is right in several is in solvers/test_sharded.py."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

from ssl_prune.groups import Member, Partition, partition
from ssl_prune.groups.gathered import gathered, held_by, unhooked
from ssl_prune.groups.shards import ShardedPartition, local, norms_beside, on_shards
from ssl_prune.scores import LayerwiseRank, Magnitude, TaylorGate, TaylorWeight


@pytest.fixture(scope="module", autouse=True)
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def rows(param: torch.Tensor, name: str = "fc.weight") -> Member:
    return Member(name, nn.Parameter(param), torch.arange(4)[:, None])


def whole(*members: Member) -> Partition:
    return Partition(members, ("fc",), torch.zeros(4, dtype=torch.long), "row")


def laid(*placements) -> torch.Tensor:
    return DTensor.from_local(torch.ones(4, 3), init_device_mesh("cpu", (1,) * len(placements)), placements)


@pytest.mark.parametrize(
    "placements", [(Shard(0),), (Shard(1),), (Replicate(),), (Replicate(), Shard(0)), (Shard(0), Shard(1))]
)
def test_what_is_laid_out_so_is_right(placements):
    groups = on_shards(whole(rows(laid(*placements))))
    assert isinstance(groups, ShardedPartition)
    torch.testing.assert_close(groups.norms(), torch.full((4,), 3**0.5))
    assert groups.sizes.tolist() == [3] * 4
    groups.scale_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    assert groups.members[0].values[:, 0].tolist() == [0, 1, 2, 3]
    assert on_shards(groups) is groups


@pytest.mark.parametrize("placement", [Partial(), _StridedShard(0, split_factor=1)])
def test_other_layouts_are_refused(placement):
    with pytest.raises(
        ValueError, match=r"fc\.weight is laid out as .*, expected Shard and Replicate alone: .*exclude"
    ):
        on_shards(whole(rows(laid(placement))))


def test_unequal_parts_are_refused():
    mesh = init_device_mesh("cpu", (1,))
    odd = DTensor.from_local(torch.ones(3, 3), mesh, [Shard(0)], shape=torch.Size([4, 3]), stride=(3, 1))
    with pytest.raises(
        ValueError, match=r"fc\.weight has a shard of shape \(3, 3\) here, expected \(4, 3\) of \(4, 3\)"
    ):
        on_shards(whole(rows(odd)))


def test_two_meshes_are_refused():
    flat, square = laid(Shard(0)), laid(Replicate(), Shard(0))
    with pytest.raises(ValueError, match=r"b\.weight is in the mesh .* and a\.weight in .*must be in one mesh"):
        on_shards(whole(rows(flat, "a.weight"), rows(square, "b.weight")))


def test_whole_parameters_beside_sharded_ones_count_once():
    groups = on_shards(whole(rows(laid(Shard(0)), "a.weight"), rows(torch.ones(4, 3), "b.weight")))
    torch.testing.assert_close(groups.norms(), torch.full((4,), 6**0.5))
    assert groups.restrict([1]).norms().tolist() == pytest.approx([3**0.5] * 4)


def test_a_sharded_network_is_not_traced():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    mesh = init_device_mesh("cpu", (1,))
    for layer in (net[0], net[2]):
        layer.weight = nn.Parameter(distribute_tensor(layer.weight, mesh, [Shard(0)]))
    with pytest.raises(ValueError, match=r"Sequential is sharded.*before fully_shard\(model\) and pass graph="):
        partition(net, "coupled", example_inputs=torch.zeros(1, 3))
    entries = partition(net, "weight")
    assert isinstance(entries, ShardedPartition)
    assert entries.describe(13) == "2 weight (0, 1)"
    assert int(entries.total(entries.alive())) == 20
    assert local(net[0].weight).shape == (4, 3)


def counting(monkeypatch) -> list:
    sent, true = [], dist.all_reduce
    monkeypatch.setattr(dist, "all_reduce", lambda sums, **options: sent.append(len(sums)) or true(sums, **options))
    return sent


@pytest.mark.parametrize("score", [TaylorGate(), LayerwiseRank(TaylorGate()), TaylorWeight(), Magnitude()])
def test_norms_go_with_the_sums_of_a_score(monkeypatch, score):
    weight = laid(Shard(0))
    groups = on_shards(whole(rows(weight), Member("fc.bias", nn.Parameter(laid(Shard(0))[:, 0]), torch.arange(4))))
    for member in groups.members:
        member.param.grad = member.param.detach() * 2
    score.bind(groups)
    sent = counting(monkeypatch)
    norms = norms_beside(groups, score.update)
    assert sent == [4 if isinstance(score, Magnitude) else 8]
    torch.testing.assert_close(norms, groups.norms())
    assert bool((score.values() > 0).all())
    assert sent[1:] == [4] * (2 if isinstance(score, Magnitude) else 1)


def test_gates_of_two_kinds_are_one_sum(monkeypatch):
    first = Member("fc.weight", nn.Parameter(laid(Shard(0))), torch.arange(4)[:, None], role="row")
    scale = Member("bn.weight", nn.Parameter(laid(Shard(0))[:, 0]), torch.tensor([0, 1, -1, -1]), role="scale")
    groups = on_shards(whole(first, scale))
    for member in groups.members:
        member.param.grad = member.param.detach() * torch.tensor(5.0)
    score = TaylorGate()
    score.bind(groups)
    sent = counting(monkeypatch)
    score.update()
    assert sent == [4]
    torch.testing.assert_close(score.values(), torch.tensor([5.0, 5.0, 15.0, 15.0]))


def sharded() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 2)))
    net.handle = net[0].register_forward_hook(lambda module, args, output: output * 2)
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(net[0], mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net


def test_what_is_gathered_computes_the_same_without_hooks_of_torch():
    net, x = sharded(), torch.randn(5, 3)
    net(x).sum().backward()
    before = [(type(m), set(vars(m)), list(m._forward_hooks), list(m._forward_pre_hooks)) for m in net.modules()]
    copy = gathered(net, here=True)
    after = [(type(m), set(vars(m)), list(m._forward_hooks), list(m._forward_pre_hooks)) for m in net.modules()]
    assert before == after
    assert [type(m) for m in copy.modules()] == [nn.Sequential, nn.Linear, nn.BatchNorm1d, nn.Sequential, nn.Linear]
    assert [type(p) for p in copy.parameters()] == [nn.Parameter] * 6
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in copy.modules()] == [0, 1, 0, 0, 0]
    torch.testing.assert_close(copy.eval()(x), net.eval()(x), rtol=0, atol=0)
    assert gathered(net, here=False) is None
    copy[0].weight.data.zero_()
    assert bool((net[0].weight.full_tensor() != 0).all())


def test_a_call_without_hooks_gathers_nothing():
    net = sharded()
    with unhooked(net), pytest.raises(RuntimeError, match="DTensor"):
        net(torch.randn(5, 3))
    assert net(torch.randn(5, 3)).shape == (5, 2)


def test_a_copy_that_does_not_fit_fails_after_all_was_sent(monkeypatch):
    net, asked, true = sharded(), [], DTensor.full_tensor

    def full(tensor):
        asked.append(tensor)
        found = true(tensor)
        if len(asked) == 1:
            found.detach = failing
        return found

    def failing():
        raise RuntimeError("out of memory")

    monkeypatch.setattr(DTensor, "full_tensor", full)
    with pytest.raises(RuntimeError, match="out of memory"):
        gathered(net, here=True)
    assert len(asked) == 6


def test_groups_of_what_is_gathered():
    net = sharded()
    groups = partition(net, "neuron")
    copy = gathered(net, here=True)
    found = held_by(groups, copy)
    assert not found.is_sharded
    torch.testing.assert_close(found.norms(), groups.norms())
    assert found.members[0].param is copy.get_parameter(found.members[0].name)
    assert held_by(found, copy) is found

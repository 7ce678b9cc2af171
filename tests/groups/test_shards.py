"""What a partition of DTensors refuses, in one process; that it is right in several is in solvers/test_sharded.py."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

from ssl_prune.budget.due_size import window_of
from ssl_prune.budget.solver import BudgetSolver
from ssl_prune.groups import Member, Partition, partition
from ssl_prune.groups.shards import ShardedPartition, local, on_shards
from ssl_prune.scores import Magnitude


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


def test_a_budget_wants_whole_parameters():
    groups = whole(rows(laid(Shard(0))))
    with pytest.raises(ValueError, match=r"fc\.weight is sharded \(a DTensor\), expected whole parameters: a budget"):
        BudgetSolver(groups, Magnitude(), None, lambda dead: dead, window_of(("0.1", "0.65")))

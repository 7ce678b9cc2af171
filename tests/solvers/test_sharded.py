"""Parameters sharded over processes by `fully_shard`: the same training as in one process, parameter for parameter.

All processes get the whole batch, so that the gradients are those of one process to the last bits, and so is everything
but the order in which a group's squares are added up.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
torch.set_num_threads(1)
from ssl_prune.graph import trace
from ssl_prune.groups import partition
from ssl_prune.penalties import L1, GroupLasso, SparseGroupLasso
from ssl_prune.solvers import ProximalSolver, SubgradientSolver

MESHES = {
    "shard": lambda: init_device_mesh("cpu", (dist.get_world_size(),)),
    "columns": lambda: init_device_mesh("cpu", (dist.get_world_size(),)),
    "replicas": lambda: init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("replica", "shard")),
}
PENALTIES = {"l1": L1(), "group": GroupLasso(), "sqrt": GroupLasso("sqrt"), "sparse": SparseGroupLasso(0.3)}
X, Y = (torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3)


class Net(nn.Module):
    # Rows of 5, 2, 6 and 3: uneven shards, and with four processes empty ones.
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        # Without a bias: its gradient before a normalisation is 0 but for rounding, which Adam makes steps of.
        self.conv1, self.bn = nn.Conv2d(1, 5, 3, bias=False), nn.BatchNorm2d(5)
        self.conv2 = nn.Conv2d(5, 2, 3)
        self.fc1, self.fc2 = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv1(x)))
        return self.fc2(torch.relu(self.fc1(torch.relu(self.conv2(x)).flatten(1))))


def shard(net, mesh, columns=False):
    # Only even parts are possible there: those of the linear layers.
    placement = (lambda p: Shard(1) if p.ndim == 2 else None) if columns else None
    for layer in net.children():
        fully_shard(layer, mesh=mesh, shard_placement_fn=placement)
    fully_shard(net, mesh=mesh)


def build(case, mesh=None):
    net = Net()
    graph = trace(net, X[:1])
    if mesh is not None:
        shard(net, mesh, case.get("mesh") == "columns")
    groups = partition(net, case["granularity"], graph=graph)
    params, lr = list(net.parameters()), case.get("lr", 0.1)
    if case.get("rates"):  # the rows have another rate than what is coupled with them
        small = {id(p) for p in (net.bn.weight, net.bn.bias)}
        params = [
            {"params": [p for p in net.parameters() if (id(p) in small) == low], "lr": lr / 4 if low else lr}
            for low in (False, True)
        ]
    if case.get("optimizer") == "adamw":
        optimizers = [torch.optim.AdamW(params, lr=case.get("lr", 0.02), weight_decay=0.1)]
    elif case.get("optimizer") == "two":
        optimizers = [torch.optim.SGD(part, lr=lr) for part in (params[:6], params[6:])]
    else:
        optimizers = [torch.optim.SGD(params, lr=lr, momentum=0.9)]
    options = {key: case[key] for key in ("preconditioned", "freeze_at", "target_groups", "threshold") if key in case}
    kind = SubgradientSolver if case.get("solver") == "subgradient" else ProximalSolver
    return net, optimizers, kind(groups, PENALTIES[case["penalty"]], case["strength"], **options)


def train(net, optimizers, solver, steps):
    for _ in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        nn.functional.cross_entropy(net(X), Y).backward()
        if isinstance(solver, SubgradientSolver):
            solver.add_gradient()
        for optimizer in optimizers:
            optimizer.step()


def whole(net):
    return {n: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for n, p in net.named_parameters()}


def look(groups, penalty):
    every = groups.total(torch.ones_like(groups.alive(), dtype=torch.long))
    found = {"value": penalty.value(groups), "alive": groups.total(groups.alive()), "every": every}
    if groups.is_entrywise:
        found["first"] = groups.describe(0) if groups.num_groups else ""
    else:
        found |= {"norms": groups.norms(), "each": groups.alive(), "sizes": groups.sizes, "name": groups.describe(1)}
    return found


def run(case, mesh=None):
    net, optimizers, solver = build(case, mesh)
    before = look(solver.groups, solver.penalty)
    solver.attach(*optimizers)
    train(net, optimizers, solver, 20)
    return {"params": whole(net), "before": before, "after": look(solver.groups, solver.penalty), "frozen": solver.frozen}


def resume(case, mesh):
    # Stopped after 15 steps, all that is known goes on in new objects.
    net, optimizers, solver = build(case, mesh)
    solver.attach(*optimizers)
    train(net, optimizers, solver, 15)
    states = net.state_dict(), [o.state_dict() for o in optimizers], solver.state_dict()
    again, others, second = build(case, mesh)
    try:
        second.load_state_dict(states[2])
        early = "accepted"
    except ValueError as error:
        early = str(error)
    again.load_state_dict(states[0])
    for optimizer, state in zip(others, states[1]):
        optimizer.load_state_dict(state)
    second.load_state_dict(states[2])
    second.attach(*others)
    train(again, others, second, 5)
    return {"params": whole(again), "state": states[2], "early": early, "frozen": second.frozen}


if __name__ == "__main__":
    folder, rank, size, names = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    CASES = torch.load(f"{folder}/cases.pt")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    results = {}
    for name in names:
        case = CASES[name]
        mesh = MESHES[case.get("mesh", "shard")]()
        results[name] = {"one": run(case), "many": run(case, mesh)}
        if "freeze_at" in case:
            results[name]["resumed"] = resume(case, mesh)
    torch.save(results, f"{folder}/rank{dist.get_rank()}.pt")
    dist.destroy_process_group()
"""

CASES: dict[str, dict[str, object]] = {
    "filter": {"granularity": "filter", "penalty": "group", "strength": 0.45},
    "coupled": {"granularity": "coupled", "penalty": "group", "strength": 0.5},
    "frozen": {"granularity": "coupled", "penalty": "sparse", "strength": 0.4, "freeze_at": 10},
    "weight": {"granularity": "weight", "penalty": "l1", "strength": 0.03},
    "subgradient": {
        "granularity": "coupled", "penalty": "group", "strength": 0.1, "solver": "subgradient", "threshold": 0.02,
    },
}  # fmt: skip
MORE: dict[str, dict[str, object]] = {
    "channel": {"granularity": "channel", "penalty": "group", "strength": 0.2},
    "shape": {"granularity": "shape", "penalty": "group", "strength": 0.1},
    "neuron": {"granularity": "neuron", "penalty": "sqrt", "strength": 0.1},
    "sparse": {"granularity": "shape", "penalty": "sparse", "strength": 0.1},
    "rates": {"granularity": "coupled", "penalty": "group", "strength": 0.8, "rates": True},
    "target_groups": {"granularity": "coupled", "penalty": "group", "strength": 0.5, "target_groups": 9},
    "until_weight": {"granularity": "weight", "penalty": "l1", "strength": 0.05, "target_groups": 190},
    "frozen_weight": {"granularity": "weight", "penalty": "l1", "strength": 0.03, "freeze_at": 10},
    "two": {"granularity": "filter", "penalty": "group", "strength": 0.3, "optimizer": "two"},
    "two_weight": {"granularity": "weight", "penalty": "l1", "strength": 0.1, "optimizer": "two"},
    "newton": {"granularity": "coupled", "penalty": "group", "strength": 0.06, "preconditioned": True},
    "newton_weight": {"granularity": "weight", "penalty": "l1", "strength": 0.003, "preconditioned": True},
    "shape_subgradient": {
        "granularity": "shape", "penalty": "group", "strength": 0.05, "solver": "subgradient", "threshold": 0.02,
    },
    "entry_subgradient": {
        "granularity": "weight", "penalty": "l1", "strength": 0.01, "solver": "subgradient", "threshold": 0.02,
    },
    "columns": {"granularity": "coupled", "penalty": "group", "strength": 0.5, "mesh": "columns"},
    "columns_shape": {"granularity": "shape", "penalty": "group", "strength": 0.1, "mesh": "columns"},
}  # fmt: skip
ADAPTIVE = {"strength": 0.6, "optimizer": "adamw"}
MORE |= {
    f"{name}_adamw": {**(CASES | MORE)[name], **ADAPTIVE, "strength": strength}
    for name, strength in {
        "filter": 1.7, "coupled": 2.5, "frozen": 3.0, "weight": 0.4, "shape": 0.8, "newton": 0.02,
        "subgradient": 0.05, "entry_subgradient": 0.01,
    }.items()
}  # fmt: skip
REPLICAS = {
    f"{name}_replicas": {**(CASES | MORE)[name], "mesh": "replicas"}
    for name in ("coupled", "shape", "weight", "until_weight", "frozen", "frozen_weight", "newton_adamw")
}
OF_FOUR = [*CASES, "shape", "until_weight", "two", "two_weight", "newton", *REPLICAS]


def launch(folder: Path, names: list[str], processes: int) -> list[dict]:
    (folder / "run.py").write_text(SCRIPT)
    torch.save(CASES | MORE | REPLICAS, folder / "cases.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(folder / "run.py"), str(folder), str(rank), str(processes), *names],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(processes)
    ]  # fmt: skip
    try:
        for process in started:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f"rank{i}.pt") for i in range(processes)]


def agrees(found: dict) -> None:
    one, many = found["one"], found["many"]
    zeros = sum(int((p == 0).sum()) for p in one["params"].values())
    assert zeros > 0
    for name, expected in one["params"].items():
        torch.testing.assert_close(
            many["params"][name], expected, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert torch.equal(many["params"][name] == 0, expected == 0), name
    for moment in ("before", "after"):
        for key, expected in one[moment].items():
            if key == "first":
                continue  # of single entries each process knows its own
            if isinstance(expected, str):
                assert many[moment][key] == expected
            else:
                torch.testing.assert_close(many[moment][key], expected, rtol=1e-4, atol=1e-5)
    assert 0 < int(one["after"]["alive"]) < int(one["after"]["every"])
    assert many["frozen"] == one["frozen"]


def holds(found: dict) -> None:
    """A run that was stopped and goes on ends as the one that was not, and its state is small and the same everywhere."""
    resumed, many = found["resumed"], found["many"]
    assert resumed["frozen"]
    assert resumed["state"]["mask"] is None
    assert "load the network's weights before the solver's state" in resumed["early"]
    for name, expected in many["params"].items():
        torch.testing.assert_close(resumed["params"][name], expected, rtol=1e-6, atol=1e-7)
        assert torch.equal(resumed["params"][name] == 0, expected == 0), name


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    return launch(tmp_path_factory.mktemp("two"), list(CASES), 2)


@pytest.fixture(scope="module")
def two_more(tmp_path_factory) -> list[dict]:
    return launch(tmp_path_factory.mktemp("two_more"), list(MORE), 2)


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> list[dict]:
    return launch(tmp_path_factory.mktemp("four"), OF_FOUR, 4)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(two: list[dict], name: str) -> None:
    for rank in two:
        agrees(rank[name])


def test_single_entries_are_named_by_their_place_in_the_whole(two: list[dict]) -> None:
    assert [rank["weight"]["many"]["after"]["first"] for rank in two] == [
        "conv1 weight (0, 0, 0)",
        "conv1 weight (3, 0, 0)",
    ]


def test_frozen_zeros_are_held_through_a_stop(two: list[dict]) -> None:
    for rank in two:
        holds(rank["frozen"])
    assert two[0]["frozen"]["resumed"]["state"] == two[1]["frozen"]["resumed"]["state"]


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_every_granularity_and_optimizer_on_two(two_more: list[dict], name: str) -> None:
    for rank in two_more:
        agrees(rank[name])
        if "resumed" in rank[name]:
            holds(rank[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_FOUR)
def test_fewer_rows_than_processes_and_replicas(four: list[dict], name: str) -> None:
    for rank in four:
        agrees(rank[name])
        if "resumed" in rank[name]:
            holds(rank[name])

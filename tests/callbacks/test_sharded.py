"""Two processes under ModelParallelStrategy on the CPU, parameters cut by `fully_shard`: the numbers of one process."""

import os
import runpy
import subprocess
import sys
import warnings

import pytest
import torch

SCRIPT = """
import os, sys, warnings
warnings.simplefilter("ignore")
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, TensorDataset
torch.set_num_threads(1)
from ssl_prune._lightning import pl
from ssl_prune.callbacks import L1, GroupLasso


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.conv2 = nn.Conv2d(1, 5, 3), nn.Conv2d(5, 5, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(80, 7), nn.Linear(7, 3)

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        x = torch.relu(x + self.conv2(x))  # ties the channels of both
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class Lit(pl.LightningModule):
    def __init__(self, optimizer, example=True, late=False):
        super().__init__()
        self.kind, self.late = optimizer, late
        self.net = None if late else Net()
        if example:
            self.example_input_array = torch.zeros(1, 1, 6, 6)

    def configure_model(self):
        if self.late and self.net is None:
            self.net = Net()
        if sys.argv[2] == "2" and not isinstance(next(self.net.parameters()), DTensor):
            mesh = self.device_mesh["data_parallel"]
            for layer in (self.net.conv1, self.net.fc1):
                fully_shard(layer, mesh=mesh)
            fully_shard(self.net, mesh=mesh)  # the rest, which stays gathered after the sanity check

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.net(batch[0])

    def configure_optimizers(self):
        if self.kind == "adamw":
            return torch.optim.AdamW(self.parameters(), lr=0.02)
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


folder, processes, wanted = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
CASES = torch.load(f"{folder}/cases.pt")
g = torch.Generator().manual_seed(1)
x, y, rank = torch.randn(40, 1, 6, 6, generator=g), torch.randint(0, 3, (40,), generator=g), int(os.environ.get("LOCAL_RANK", 0))
data = TensorDataset(x[rank::processes], y[rank::processes])  # a batch of all processes is one of the single process


def fit(lit, callbacks, epochs=4, ckpt_path=None, whole=False):
    strategy = "auto"
    if processes > 1:
        strategy = pl.strategies.ModelParallelStrategy(
            data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=not whole
        )
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=processes, strategy=strategy, logger=False,
        use_distributed_sampler=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=callbacks,
    )
    loader = DataLoader(data, batch_size=8 // processes)
    trainer.fit(lit, loader, loader, ckpt_path=ckpt_path)
    return trainer


def penalties(case):
    options = dict(CASES[case])
    optimizer, entries = options.pop("optimizer"), options.pop("l1", None)
    lasso = [GroupLasso(**options)] if "granularity" in options else []
    return optimizer, [*lasso, *([] if entries is None else [L1(**entries)])]


def parameters(lit):
    return {n: (p.full_tensor() if isinstance(p, DTensor) else p).detach() for n, p in lit.named_parameters()}


def result(case):
    optimizer, callbacks = penalties(case)
    lit = Lit(optimizer)
    fit(lit, callbacks)
    solver = callbacks[0].solver
    return {"params": parameters(lit), "steps": solver.step_count, "frozen": solver.frozen}


def resumed(case, whole):
    optimizer, callbacks = penalties(case)
    path = f"{folder}/{case}{whole}.ckpt"
    fit(Lit(optimizer), callbacks, epochs=2, whole=whole).save_checkpoint(path)
    optimizer, callbacks = penalties(case)
    lit = Lit(optimizer)
    fit(lit, callbacks, ckpt_path=path, whole=whole)
    return {"params": parameters(lit), "steps": callbacks[0].solver.step_count, "frozen": callbacks[0].solver.frozen}


def refusal(callbacks, **options):
    try:
        fit(Lit("sgd", **options), callbacks)
    except ValueError as error:
        return str(error)
    return "accepted"


found = {case: result(case) for case in wanted if case in CASES}
if "resumed" in wanted:
    found["resumed"] = resumed("coupled", whole=False)
if "resumed whole" in wanted:
    found["resumed whole"] = resumed("coupled", whole=True)
if "refusals" in wanted:
    found["refusals"] = {
        "no example": refusal([GroupLasso("coupled", 0.1)], example=False),
        "built late": refusal([GroupLasso("coupled", 0.1)], late=True),
    }
    found["late entries"] = refusal([L1(0.1)], late=True)
torch.save(found, f"{folder}/{processes}-{rank}.pt")
"""

CASES = {
    "coupled": {
        "optimizer": "sgd", "granularity": "coupled", "strength": 1.2, "freeze_at": "1ep",
        "l1": {"strength": 0.01, "include": "fc2"},
    },
    "filter": {"optimizer": "adamw", "granularity": "filter", "strength": 2.8},
    "shape": {"optimizer": "sgd", "granularity": "shape", "strength": 0.1},
    "l1": {"optimizer": "adamw", "l1": {"strength": 0.1}},
    "coupled_adamw": {"optimizer": "adamw", "granularity": "coupled", "strength": 4.0},
    "coupled_subgradient": {
        "optimizer": "sgd", "granularity": "coupled", "strength": 0.03, "solver": "subgradient", "threshold": 0.01,
    },
}  # fmt: skip


def launch(folder, processes, names):
    (folder / "run.py").write_text(SCRIPT)
    torch.save(CASES, folder / "cases.pt")
    if processes == 1:  # here, which saves the imports of a new process
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            patch.setattr(sys, "argv", ["run.py", str(folder), "1", *names])
            runpy.run_path(str(folder / "run.py"))
        return [torch.load(folder / "1-0.pt")]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE"))}
    environment.update(OMP_NUM_THREADS="1", MASTER_ADDR="127.0.0.1")
    command = [sys.executable, str(folder / "run.py"), str(folder), str(processes), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{processes}-{rank}.pt") for rank in range(processes)]


def same(many, one, rtol=1e-4):
    assert (many["steps"], many["frozen"]) == (one["steps"], one["frozen"])
    zeros = sum(int((p == 0).sum()) for p in one["params"].values())
    assert 0 < zeros < sum(p.numel() for p in one["params"].values())
    for name, expected in one["params"].items():
        torch.testing.assert_close(
            many["params"][name], expected, rtol=rtol, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert torch.equal(many["params"][name] == 0, expected == 0), name


@pytest.mark.slow
def test_model_parallel_equals_one_process(tmp_path):
    (one,), many = launch(tmp_path, 1, ["coupled"]), launch(tmp_path, 2, ["coupled"])
    for rank in many:
        same(rank["coupled"], one["coupled"])
    assert one["coupled"]["frozen"]


@pytest.mark.slow
def test_other_penalties_and_a_run_that_was_stopped(tmp_path):
    names = list(CASES)
    (one,), many = launch(tmp_path, 1, names), launch(tmp_path, 2, [*names, "resumed", "resumed whole"])
    for rank in many:
        for name in names:
            same(rank[name], one[name])
        for name in ("resumed", "resumed whole"):
            same(rank[name], rank["coupled"], rtol=1e-6)


@pytest.mark.slow
def test_what_cannot_work_on_shards_says_so(tmp_path):
    first, second = launch(tmp_path, 2, ["refusals"])
    assert first == second
    found = first["refusals"]
    assert "set example_input_array on the LightningModule" in found["no example"]
    assert "Net is sharded, and only a whole network can be traced: build it in the __init__" in found["built late"]
    assert first["late entries"] == "accepted"

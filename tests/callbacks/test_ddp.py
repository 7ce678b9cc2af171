"""Two processes on the CPU: the same numbers on both, files from the first only."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys, warnings
warnings.simplefilter("ignore")
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.set_num_threads(1)
from ssl_prune._lightning import pl
from ssl_prune.callbacks import L1, Budget, GroupLasso, Slim, SparsityMonitor

class Lit(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)

folder, solver = sys.argv[1], sys.argv[2]
g = torch.Generator().manual_seed(1)
data = TensorDataset(torch.randn(32, 1, 6, 6, generator=g), torch.randint(0, 3, (32,), generator=g))
callbacks = [
    GroupLasso("coupled") if solver == "budget"
    else GroupLasso("coupled", 2.5, solver=solver, threshold=0.05 if solver == "subgradient" else None, freeze_at="0.75"),
    L1(0.01, include="4"),
    SparsityMonitor(),
    Slim("net.safetensors"),
    *([Budget(macs=0.6, window=("0.1", "0.75"), every=1, path="budget.json")] if solver == "budget" else []),
]
trainer = pl.Trainer(
    max_epochs=4, accelerator="cpu", devices=2, strategy="ddp", logger=False, default_root_dir=folder,
    enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
)
model = Lit()
loader = DataLoader(data, batch_size=8)
trainer.fit(model, loader, loader)
state = {k: v for k, v in model.state_dict().items()}
solver = callbacks[0].solver
torch.save((dict(model.named_parameters()), solver.step_count, solver.frozen, callbacks[3].report is not None),
           f"{folder}/rank{trainer.global_rank}.pt")
torch.distributed.destroy_process_group()  # what gloo still holds at exit can abort a process
"""


@pytest.mark.parametrize(
    "solver", ["budget", *(pytest.param(s, marks=pytest.mark.slow) for s in ("proximal", "subgradient"))]
)
def test_ranks_agree_and_the_first_one_writes(tmp_path, solver):
    import torch

    (tmp_path / "run.py").write_text(SCRIPT)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE"))}
    environment.update(OMP_NUM_THREADS="1", MASTER_ADDR="127.0.0.1")
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path), solver]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (first, steps, frozen, wrote), (second, *others) = (
        torch.load(tmp_path / f"rank{i}.pt", weights_only=False) for i in range(2)
    )
    assert (steps, frozen, wrote) == (8, True, True)
    assert others == [8, True, False]
    assert all(torch.equal(p, second[name]) for name, p in first.items())
    assert any((p == 0).any() for p in first.values())
    assert (tmp_path / "net.safetensors").exists()
    assert done.stdout.count("whole network") == 1

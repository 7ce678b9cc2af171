"""Several processes on the CPU that cut their network together."""

import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import os, sys, warnings
warnings.simplefilter("ignore")
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.set_num_threads(1)
from ssl_prune._lightning import pl
from ssl_prune import SlimError
from ssl_prune.callbacks import Budget, GroupLasso, Shrink, Slim

folder, devices, strategy, what = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]

class Lit(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(1, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3),
        )
        self.example_input_array = torch.zeros(1, 1, 6, 6)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)

class Watch(pl.Callback):
    # After every cut: all processes have the same parameters.
    seen = []
    def on_train_batch_end(self, trainer, pl_module, *args):
        flat = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        every = trainer.strategy.all_gather(flat)
        assert torch.equal(every[0], every[-1]), "processes differ"
        self.seen.append(len(flat))

class Stray(pl.Callback):
    # One process alone sets an entry to zero.
    def on_train_batch_end(self, trainer, pl_module, *args):
        if what == "stray" and trainer.global_step == 8 and trainer.global_rank == 1:
            with torch.no_grad():
                pl_module.net[3].weight[2, 1] = 0

if what == "broken":  # the first process alone looks for a plan
    def fail(self, pl_module):
        raise SlimError("there is no plan")
    Shrink._plan = fail

class Save(pl.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(f"{folder}/{what}{trainer.current_epoch}.ckpt")

g = torch.Generator().manual_seed(1)
data = TensorDataset(torch.randn(64, 1, 6, 6, generator=g), torch.randint(0, 3, (64,), generator=g))
shrink = Shrink(every_n_steps=4, min_gain=0.0)
slim = Slim(f"{what}.safetensors", latency_batch=0)
trainer = pl.Trainer(
    max_epochs=6, accelerator="cpu", devices=devices, strategy=strategy, logger=False, default_root_dir=folder,
    enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    callbacks=[GroupLasso("coupled"), Budget(macs=0.5, window=("0.1", "0.7"), every=1), shrink, *([Watch()] if what != "stray" else []),
               Stray(), slim, *([Save()] if what == "first" else [])],
)
model = Lit()
ckpt = f"{folder}/first2.ckpt" if what == "again" else None
trainer.fit(model, DataLoader(data, batch_size=8), ckpt_path=ckpt, weights_only=True)
torch.save((dict(model.named_parameters()), [e[:3] for e in shrink.history]), f"{folder}/{what}{trainer.global_rank}.pt")
torch.distributed.destroy_process_group()  # what gloo still holds at exit can abort a process
"""


def run(folder, devices, what, strategy="ddp"):
    (folder / "run.py").write_text(SCRIPT)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE"))}
    environment.update(OMP_NUM_THREADS="1", MASTER_ADDR="127.0.0.1")
    command = [sys.executable, str(folder / "run.py"), str(folder), str(devices), strategy, what]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def results(folder, devices, what):
    return [torch.load(folder / f"{what}{i}.pt", weights_only=False) for i in range(devices)]


@pytest.mark.parametrize(
    ("devices", "strategy"),
    [
        pytest.param(2, "ddp", marks=pytest.mark.slow, id="2"),
        pytest.param(2, "ddp_find_unused_parameters_true", marks=pytest.mark.slow, id="2-unused"),
        pytest.param(4, "ddp", marks=pytest.mark.slow, id="4"),
    ],
)
def test_processes_stay_equal_and_a_resumed_run_equals_one_that_was_not_stopped(tmp_path, devices, strategy):
    for what in ("first", "again"):
        done = run(tmp_path, devices, what, strategy)
        assert done.returncode == 0, done.stderr[-3000:]
    straight, again = results(tmp_path, devices, "first"), results(tmp_path, devices, "again")
    (params, history), *others = straight
    assert len(history) > 1
    for other, seen in [*others, *again]:
        assert seen == history
        assert params.keys() == other.keys()
    assert all(torch.equal(p, other[name]) for other, _ in others for name, p in params.items())
    for other, _ in again:
        for name, p in params.items():
            # Sums over more than two processes depend on the order of the buckets, which a new wrapper finds anew.
            torch.testing.assert_close(p, other[name], rtol=0, atol=0 if devices == 2 else 1e-4)
    assert params["net.3.weight"].shape[0] < 12


@pytest.mark.slow
def test_processes_that_differ_stop_with_the_layer(tmp_path):
    done = run(tmp_path, 2, "stray")
    assert done.returncode != 0
    assert "net.3.weight" not in done.stderr.split("SlimError")[0]
    assert "3.weight: processes [1] have other zeros" in done.stderr


@pytest.mark.slow
def test_an_error_of_the_process_that_decides_stops_all(tmp_path):
    done = run(tmp_path, 2, "broken")
    assert done.returncode != 0
    assert done.stderr.count("SlimError: there is no plan") == 2

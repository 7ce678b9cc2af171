"""Budget, SparsityMonitor and Slim on parameters cut by `fully_shard`: the decisions and the slim file of one process."""

import json
import os
import runpy
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import os, sys, weakref, warnings
warnings.simplefilter("ignore")
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, TensorDataset
torch.set_num_threads(1)
import ssl_prune.callbacks.monitor as monitor
import ssl_prune.callbacks.slim as slimming
from ssl_prune._lightning import pl
from ssl_prune.callbacks import L1, Budget, GroupLasso, Slim, SparsityMonitor
from ssl_prune.scores import LayerwiseRank, Magnitude


class Net(nn.Module):
    def __init__(self, normed):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(1, 9, 3, bias=not normed), nn.BatchNorm2d(9) if normed else nn.Identity()
        self.conv2 = nn.Conv2d(9, 9, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(144, 7), nn.Linear(7, 3)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(x + self.conv2(x))  # ties the channels of both
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class Lit(pl.LightningModule):
    def __init__(self, normed=True, example=True, outer=False):
        super().__init__()
        self.net, self.outer = Net(normed), outer
        if example:
            self.example_input_array = torch.zeros(1, 1, 6, 6)

    def configure_model(self):
        if processes > 1 and not isinstance(next(self.net.parameters()), DTensor):
            mesh = self.device_mesh["data_parallel"]
            for layer in (self.net.conv1, self.net.fc1) if not self.outer else ():
                fully_shard(layer, mesh=mesh)
            # The rest, which stays gathered after a validation.
            fully_shard(self if self.outer else self.net, mesh=mesh)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean(), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Watch(pl.Callback):
    # What a step sends, what an epoch shows, and how much of what was gathered there is at a time.
    def __init__(self):
        self.logged, self.sent, self.alive, self.most, self.places = [], [], 0, 0, set()

    def setup(self, trainer, pl_module, stage):
        self.true, self.whole = dist.all_reduce, DTensor.full_tensor
        dist.all_reduce, DTensor.full_tensor = self.all_reduce, lambda tensor, **given: self.full_tensor(tensor, **given)

    def teardown(self, trainer, pl_module, stage):
        dist.all_reduce, DTensor.full_tensor = self.true, self.whole

    def all_reduce(self, *args, **kwargs):
        self.count = getattr(self, "count", 0) + 1
        return self.true(*args, **kwargs)

    def full_tensor(self, tensor, **given):
        found = self.whole(tensor, **given)
        size = found.numel() * found.element_size()
        self.alive, self.most = self.alive + size, max(self.most, self.alive + size)
        weakref.finalize(found, self.gone, size)
        return found

    def gone(self, size):
        self.alive -= size

    def on_before_zero_grad(self, *args):
        self.count = 0

    def on_train_batch_end(self, *args):
        self.sent.append(getattr(self, "count", 0))

    def on_train_epoch_end(self, trainer, pl_module):
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items() if k != "val_acc"})


folder, processes, wanted = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
g, rank = torch.Generator().manual_seed(1), int(os.environ.get("LOCAL_RANK", 0))
# All processes get all of a batch, as one process does.
data = TensorDataset(torch.randn(40, 1, 6, 6, generator=g), torch.randint(0, 3, (40,), generator=g))


def fit(lit, callbacks, epochs=6, ckpt_path=None):
    strategy = pl.strategies.ModelParallelStrategy(data_parallel_size=processes, tensor_parallel_size=1)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=processes, strategy=strategy if processes > 1 else "auto",
        logger=False, use_distributed_sampler=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=callbacks,
    )
    loader = DataLoader(data, batch_size=8)
    trainer.fit(lit, loader, loader, ckpt_path=ckpt_path)
    return trainer


def budget(name, file=True, **options):
    own = dict(window=("5it", "22it"), path=f"{processes}-{name}-budget.json" if file else None)
    return [GroupLasso("coupled"), Budget(macs=0.5, **{**own, **options})]


def decisions(callback):
    solver = callback.solver
    return {"dead": solver.dead, "gone": solver.gone, "keys": solver.keys, "history": solver.history}


def run(name, lit, pruning, **options):
    count, watch = [0], Watch()
    save = slimming.save_slim
    slimming.save_slim = lambda *given: (count.append(1), save(*given))
    file = f"{processes}-{name}.safetensors"
    slim = [Slim(file, latency_batch=0)] if options.pop("slim", True) else []
    fit(lit, [*slim, *pruning, SparsityMonitor(), watch], **options)
    slimming.save_slim = save
    result = slim[0].result if slim else None
    found = {
        "written": sum(count), "logged": watch.logged, "sent": watch.sent, "most": watch.most,
        "sizes": [p.numel() * p.element_size() for p in lit.parameters()],
    }
    if result is not None:
        found |= {"plan": result.plan.to_json(), "params": result.report.params, "macs": result.report.macs}
        found["held_out"] = [(e.name, e.samples, e.accuracy) for e in slim[0].report.evaluations]
    if len(pruning) > 1:
        found["decisions"] = decisions(pruning[1])
        found["reached"] = pruning[1].reached and pruning[1].reached.left
    return found


def refused(callbacks, **options):
    try:
        fit(Lit(**options), callbacks)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def failing(*args):
    raise ValueError("nothing can be seen here")


class Stop(pl.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            trainer.save_checkpoint(f"{folder}/{processes}.ckpt")


found = {}
for name in wanted:
    if name in ("normed", "plain"):
        found[name] = run(name, Lit(name == "normed"), budget(name))
    elif name == "l1":  # nothing else needs a graph, and there is no example
        found[name] = run(name, Lit(example=False), [L1(1.0)])
    elif name == "alone":  # no Slim: the budget says what is reached
        found[name] = run(name, Lit(), budget(name), slim=False)
    elif name == "outer":  # the LightningModule is sharded, all of it at once
        found[name] = run(name, Lit(outer=True), budget(name))
    elif name == "ranks":
        options = dict(score=LayerwiseRank(Magnitude()), cost_exponent=0.5)
        found[name] = run(name, Lit(), budget(name, **options), slim=False)
    elif name == "resumed":
        found["unbroken"] = run("unbroken", Lit(), [*budget(name, file=False), Stop()])
        found[name] = run(name, Lit(), budget(name, file=False), ckpt_path=f"{folder}/{processes}.ckpt")
    elif name == "failing":
        true, monitor.remaining = monitor.remaining, failing
        found[name] = refused([L1(0.1), SparsityMonitor()])
        monitor.remaining = true
torch.save(found, f"{folder}/{processes}-{rank}.pt")
"""


def launch(folder, processes, names):
    (folder / "run.py").write_text(SCRIPT)
    if processes == 1:  # here, which saves the imports of a new process
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            patch.setattr(sys, "argv", ["run.py", str(folder), "1", *names])
            runpy.run_path(str(folder / "run.py"))
        return torch.load(folder / "1-0.pt")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE"))}
    environment.update(OMP_NUM_THREADS="1", MASTER_ADDR="127.0.0.1")
    command = [sys.executable, str(folder / "run.py"), str(folder), str(processes), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{processes}-{rank}.pt") for rank in range(processes)]


def same(many, one):
    """What every process knows is what one process knows."""
    for key in {"logged", "decisions"} & one.keys():
        torch.testing.assert_close(many[key], one[key], rtol=1e-3, atol=1e-6)
    assert one["logged"][-1]["macs_left"] < 0.9


def same_slim(folder, name, many, one):
    assert many["plan"] == one["plan"]
    assert (many["params"], many["macs"], many["held_out"]) == (one["params"], one["macs"], one["held_out"])
    assert one["params"][1] < one["params"][0]
    torch.testing.assert_close(*(load_file(folder / f"{n}-{name}.safetensors") for n in (2, 1)), rtol=1e-3, atol=1e-5)


def test_two_processes_decide_and_cut_as_one(tmp_path):
    one, many = launch(tmp_path, 1, ["normed"])["normed"], launch(tmp_path, 2, ["normed", "failing"])
    for rank in many:
        same(rank["normed"], one)
    assert (many[0]["normed"]["reached"], many[1]["normed"]["reached"]) == (one["reached"], None)
    first, second = (rank["normed"] for rank in many)
    same_slim(tmp_path, "normed", first, one)
    assert (first["written"], second["written"]) == (1, 0)
    assert json.loads((tmp_path / "2-normed-budget.json").read_text())["missed"] == ""
    # A process has its shards and one parameter of them all.
    assert second["most"] == max(second["sizes"])
    # The score and the norms go together; where decisions begin and zeros freeze, these are looked for.
    assert set(first["sent"]) == {0, 1, 2}
    assert first["sent"].count(2) == 2
    # One process looks for all, and where it fails all say so.
    assert many[0]["failing"] == "ValueError: nothing can be seen here"
    assert many[1]["failing"] == (
        "SlimError: process 0 looked at the whole network for all, and it failed there: ValueError: nothing can be seen here"
    )


@pytest.mark.slow
def test_other_networks_and_callbacks_and_a_run_that_was_stopped(tmp_path):
    names = ["plain", "l1", "alone", "outer", "ranks", "resumed"]
    one, many = launch(tmp_path, 1, names), launch(tmp_path, 2, names)
    for rank in many:
        for name in one:
            same(rank[name], one[name])
        torch.testing.assert_close(rank["resumed"]["decisions"], rank["unbroken"]["decisions"], rtol=0, atol=0)
    for name in ("plain", "l1", "outer", "resumed", "unbroken"):
        same_slim(tmp_path, name, many[0][name], one[name])
    assert many[0]["resumed"]["plan"] == many[0]["unbroken"]["plan"]
    for name in ("plain", "alone", "outer", "ranks"):
        assert many[0][name]["reached"] == one[name]["reached"]
        assert json.loads((tmp_path / f"2-{name}-budget.json").read_text())["missed"] == ""

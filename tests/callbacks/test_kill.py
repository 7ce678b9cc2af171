"""A run that is killed at any moment goes on from its last checkpoint to the numbers of a run that never was.

The runs are forks of one process, so that a kill costs no new start of Python.
"""

import os
import subprocess
import sys

import pytest

SCRIPT = '''
import os, random, signal, sys, time, warnings
warnings.simplefilter("ignore")
import logging
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.set_num_threads(1)
from ssl_prune._lightning import pl
from ssl_prune.callbacks import Budget, GroupLasso, Shrink
from pathlib import Path
import fsspec.implementations.local as local
grafting = sys.modules["ssl_prune.shrinking.inplace_cut"]  # the package has a function of that name

FOLDER, WHERE = Path(sys.argv[1]), sys.argv[2]

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

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def arm(attempt):
    """Die at the attempt's own moment: in the middle of a cut, before or after a file takes its name."""
    if WHERE == "cut":
        put, left = grafting._put, [attempt % 5]
        def dying(*args):
            if not left[0]:
                die()
            left[0] -= 1
            put(*args)
        grafting._put = dying
    if WHERE in ("save", "saved"):
        commit, left = local.LocalFileOpener.commit, [2]
        def dying(self):
            left[0] -= 1
            if not left[0]:
                if WHERE == "saved":
                    commit(self)
                die()
            commit(self)
        local.LocalFileOpener.commit = dying

def train(folder, attempt=None):
    g = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(32, 1, 6, 6, generator=g), torch.randint(0, 3, (32,), generator=g))
    shrink = Shrink(min_gain=0.0)
    keep = pl.callbacks.ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    trainer = pl.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[GroupLasso("coupled"), Budget(macs=0.4, window=("0.1", "0.9"), every=1), shrink, keep],
    )
    found = sorted(folder.glob("*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))
    if attempt is not None:
        arm(attempt)
    model = Lit()
    trainer.fit(model, DataLoader(data, batch_size=8), ckpt_path=found[-1] if found else None, weights_only=True)
    return model, [entry[:3] for entry in shrink.history]

EPOCHS = 60 if WHERE == "anywhere" else 10
start = time.perf_counter()
straight, history = train(FOLDER / "straight")
epoch = (time.perf_counter() - start) / EPOCHS
chance, kills, attempt = random.Random(int(sys.argv[3])), 0, 0
while True:
    attempt += 1
    child = os.fork()
    if not child:
        try:
            model, seen = train(FOLDER / "killed", attempt if attempt < 12 else None)
            torch.save((dict(model.named_parameters()), seen), FOLDER / "killed.pt")
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if WHERE == "anywhere":
        files = len(list((FOLDER / "killed").glob("*.ckpt")))
        # Once it has got further, at any moment of the next epochs.
        while len(list((FOLDER / "killed").glob("*.ckpt"))) == files and not os.waitid(
            os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 2) * epoch)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "a resumed run failed"
        break
    kills += 1
    assert kills < 200, "it never ends"
params, seen = torch.load(FOLDER / "killed.pt", weights_only=False)
assert seen == history and len(history) > 2, (seen, history)
assert all(torch.equal(p, params[name]) for name, p in straight.named_parameters()), "other numbers"
assert straight.net[3].weight.shape[0] < 12
print("kills", kills)
'''


@pytest.mark.slow
@pytest.mark.parametrize(("where", "least"), [("anywhere", 20), ("cut", 5), ("save", 3), ("saved", 3)])
def test_nothing_is_lost(tmp_path, where, least):
    (tmp_path / "run.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path), where, "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split("kills")[1]) >= least

"""What the monitor logs is what a cut then leaves."""

import csv

import pytest
import torch
from torch import nn

from ssl_prune import slim
from ssl_prune._lightning import pl
from ssl_prune.callbacks import L1, GroupLasso, Slim, SparsityMonitor


class Residual(nn.Module):
    """A block whose branch can die as a whole."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.branch = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1))
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        return self.fc(torch.relu(x + self.branch(x)).mean((2, 3)))


def zero(*tensors):
    with torch.no_grad():
        for tensor in tensors:
            tensor.zero_()


def nothing(net):
    pass


def some_channels(net):
    zero(net.branch[0].weight[:3], net.branch[0].bias[:3], net.conv1.weight[4], net.conv1.bias[4])
    zero(net.branch[2].weight[4], net.branch[2].bias[4])


def a_dead_branch(net):
    zero(net.branch[2].weight, net.branch[2].bias)


def a_constant_branch(net):
    zero(net.branch[0].weight)


def nobody_reads(net):
    zero(net.fc.weight[:, 2:], net.branch[0].weight[:, 2:])


def everything(net):
    zero(*net.parameters())


@pytest.mark.parametrize("kill", [nothing, some_channels, a_dead_branch, a_constant_branch, nobody_reads, everything])
def test_the_numbers_are_those_of_the_cut(kit, trainer, kill):
    class Fixed(kit.Lit):
        def __init__(self):
            super().__init__(optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
            self.net = Residual()
            kill(self.net)

    model, last = Fixed(), Slim(None)
    run = trainer(SparsityMonitor(), last)
    run.fit(model, kit.loader())
    report = last.report.slim
    assert run.logged_metrics["macs_left"].item() == pytest.approx(report.macs[1] / report.macs[0], rel=1e-6)
    assert run.logged_metrics["params_left"].item() == pytest.approx(report.params[1] / report.params[0], rel=1e-6)
    assert report.macs == slim(model.net, torch.zeros(1, 1, 6, 6)).report.macs
    assert (report.macs[1] < report.macs[0]) == (kill is not nothing)


def test_after_real_training(kit, trainer):
    model, last, penalty = kit.Lit(), Slim(None), GroupLasso("coupled", 4.0)
    run = trainer(penalty, SparsityMonitor(), last, epochs=4)
    run.fit(model, kit.loader())
    report = last.report.slim
    assert run.logged_metrics["macs_left"].item() == pytest.approx(report.macs[1] / report.macs[0], rel=1e-6)
    assert run.logged_metrics["params_left"].item() == pytest.approx(report.params[1] / report.params[0], rel=1e-6)
    assert report.macs[1] < report.macs[0]
    assert run.logged_metrics["groups_alive"] == penalty.groups.alive().sum() <= 11 - sum(report.removed.values())


def test_every_epoch_is_logged(kit, trainer, tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path, name=None, version="")
    callbacks = GroupLasso("coupled", 4.0, freeze_at="2ep"), L1(0.1, include="fc"), SparsityMonitor()
    trainer(*callbacks, epochs=3, logger=logger).fit(kit.Lit(), kit.loader())
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    for name in ("macs_left", "params_left"):
        shares = [float(row[name]) for row in rows]
        assert all(0 < share <= 1 for share in shares)
        assert shares == sorted(shares, reverse=True)
    assert [float(row["strength"]) for row in rows] == pytest.approx([4.0, 0.1, 0.1])
    assert all(float(row["groups_alive"]) == int(float(row["groups_alive"])) > 0 for row in rows)


def test_without_a_penalty_only_sizes_are_logged(kit, trainer):
    run = trainer(SparsityMonitor())
    run.fit(kit.Lit(), kit.loader())
    assert {"macs_left", "params_left"} == set(run.logged_metrics)


def test_the_progress_bar(kit, trainer):
    run = trainer(GroupLasso("filter", 0.1), SparsityMonitor())
    run.fit(kit.Lit(), kit.loader())
    assert {"macs_left", "params_left", "groups_alive"} <= set(run.progress_bar_metrics)
    run = trainer(SparsityMonitor(prog_bar=False))
    run.fit(kit.Lit(), kit.loader())
    assert not {"macs_left", "params_left"} & set(run.progress_bar_metrics)


def test_a_checkpoint_can_watch_the_size(kit, trainer, tmp_path):
    best = pl.callbacks.ModelCheckpoint(tmp_path, monitor="macs_left", mode="min", save_on_train_epoch_end=True)
    trainer(GroupLasso("coupled", 4.0), SparsityMonitor(), best, epochs=3, enable_checkpointing=True).fit(
        kit.Lit(), kit.loader()
    )
    assert best.best_model_score < 1

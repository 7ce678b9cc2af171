"""A small residual network, a LightningModule that trains it, its data, and callbacks that set groups to zero or look on."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ssl_prune._lightning import pl
from ssl_prune.callbacks import GroupLasso, Shrink


class Wide(nn.Module):
    """Residual, with and without a normalisation."""

    def __init__(self, width=12, hidden=16):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, 3)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(x + self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(x))))))
        return self.fc2(torch.relu(self.fc1(x.mean((2, 3)))))


class Lit(pl.LightningModule):
    """Keeps the losses of its steps, in a class of its own so that a copy does not share them."""

    def __init__(self, optimizer=None, example=True, double=False, sizes=(12, 16), decay=0.99):
        super().__init__()
        torch.manual_seed(1)
        self.net, self.decay = Wide(*sizes), decay
        self.build = optimizer or (lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
        self.losses = []
        if example:
            self.example_input_array = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(3))
        if double:
            self.double()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0].to(next(self.parameters()).dtype)), batch[1])
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = self.build(self.parameters())
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, self.decay)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def loader(samples=128):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 1, 6, 6, generator=generator)
    y = (x.mean((1, 2, 3)) > 0).long() + (x[:, 0, 0, 0] > 1).long()
    return DataLoader(TensorDataset(x, y), batch_size=16)


class Zero(pl.Callback):
    """At the start of the third epoch sets groups to zero, and holds them there."""

    def on_train_epoch_start(self, trainer, pl_module):
        lasso = next(c for c in trainer.callbacks if isinstance(c, GroupLasso))
        if trainer.current_epoch == 2 and not lasso.solver.frozen:
            keep = torch.rand(lasso.groups.num_groups, generator=torch.Generator().manual_seed(3)) > 0.4
            lasso.groups.scale_(keep.to(lasso.groups.dtype))
            lasso.solver.freeze()


def frozen():
    """Zeros from the third epoch on, and a cut before the fourth one."""
    return [GroupLasso("coupled", 0.1), Zero(), Shrink(every_n_epochs=3)]


def adamw(params):
    return torch.optim.AdamW(params, lr=3e-3, fused=True)


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def params(module):
    return sum(p.numel() for p in module.parameters())


class Save(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


class Wait(pl.Callback):
    """Counts what other callbacks are told of cuts."""

    def __init__(self):
        self.told = []

    def on_shrink(self, trainer, pl_module, network, origin):
        self.told.append((trainer.global_step, network, origin))

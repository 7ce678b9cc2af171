"""A network of two convolutions and a classifier, a LightningModule around it, fixed data, a Trainer without output."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ssl_prune._lightning import pl


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 5, 3)
        self.fc = nn.Linear(5 * 16, 3)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv1(x)))
        return self.fc(torch.relu(self.conv2(x)).flatten(1))


class Lit(pl.LightningModule):
    """SGD with momentum, an lr that falls with every step."""

    def __init__(self, example=True, optimizer=None, scheduler=True):
        super().__init__()
        torch.manual_seed(1)
        self.net = Net()
        self.build, self.scheduler = optimizer, scheduler
        if example:
            self.example_input_array = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(3))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        build = self.build or (lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9))
        optimizer = build(self.parameters())
        if not self.scheduler:
            return optimizer
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def data(samples=24):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(samples, 1, 6, 6, generator=generator)
    return TensorDataset(x, torch.randint(0, 3, (samples,), generator=generator))


def loader(batch_size=8, shuffle=False, samples=24):
    return DataLoader(data(samples), batch_size=batch_size, shuffle=shuffle)


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.fixture
def kit():
    return SimpleNamespace(Net=Net, Lit=Lit, data=data, loader=loader, flat=flat)


@pytest.fixture
def trainer(tmp_path):
    def build(*callbacks, epochs=1, **options):
        settings = {
            "max_epochs": epochs,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
        }
        return pl.Trainer(callbacks=list(callbacks), **{**settings, **options})

    return build

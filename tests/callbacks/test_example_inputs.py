"""Where the example input of a run comes from, and networks that only a first call finishes."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ssl_prune._lightning import pl
from ssl_prune.callbacks import GroupLasso


class Module(pl.LightningModule):
    def __init__(self, net, example=None, inputs=1):
        super().__init__()
        self.net, self.inputs = net, inputs
        self.example_input_array = example

    def forward(self, *xs):
        return self.net(*xs)

    def training_step(self, batch, batch_idx):
        return self(*batch[: self.inputs]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x, y):
        return self.b(torch.relu(self.a(x + y)))


def fit(module, folder):
    data = DataLoader(TensorDataset(torch.randn(4, 4), torch.randn(4, 4)), batch_size=2)
    pl.Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", default_root_dir=folder, callbacks=[GroupLasso("coupled", 0.1)],
    ).fit(module, data)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_an_example_of_the_first_batch_that_does_not_fit_says_where_it_came_from(tmp_path):
    with pytest.raises(
        ValueError, match=r"Both: .*first training batch.*missing 1 required.*set example_input_array on Mod"
    ):
        fit(Module(Both(), inputs=2), tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_lazy_layers_are_finished_with_the_example(tmp_path):
    net = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(2))
    fit(Module(net, example=torch.randn(1, 4)), tmp_path)
    assert net[0].weight.shape == (6, 4)

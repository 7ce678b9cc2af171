"""Looking on changes nothing: with strength 0 a run equals one without callbacks, bit for bit."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from ssl_prune.callbacks import L1, GroupLasso, Slim, SparsityMonitor


class Noisy(Dataset):
    """Augments with every generator that a program may use."""

    def __init__(self, base):
        self.base = base

    def __len__(self):
        return len(self.base)

    def __getitem__(self, index):
        x, y = self.base[index]
        return x + 0.1 * torch.randn(()) + 0.1 * random.random() + 0.1 * float(np.random.rand()), y


class Stream(IterableDataset):
    """Numbers its passes, as a stream that is read once would."""

    def __init__(self, base):
        self.base, self.passes = base, 0

    def __iter__(self):
        self.passes += 1
        for x, y in self.base:
            yield x + self.passes, y


def shuffled(kit):
    return DataLoader(Noisy(kit.data()), batch_size=8, shuffle=True)


def own_generator(kit):
    return DataLoader(kit.data(), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(5))


def own_sampler(kit):
    sampler = RandomSampler(kit.data(), generator=torch.Generator().manual_seed(5))
    return DataLoader(kit.data(), batch_size=8, sampler=sampler)


def stream(kit):
    return DataLoader(Stream(kit.data()), batch_size=8)


class Dropping(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.drop = net, nn.Dropout(0.3)

    def forward(self, x):
        return self.net(self.drop(x))


@pytest.mark.parametrize("example", [True, False])
@pytest.mark.parametrize(
    ("loader", "solver"),
    [(shuffled, "subgradient"), (own_generator, "proximal"), (own_sampler, "proximal"), (stream, "proximal")],
)
def test_strength_zero_is_no_callback_at_all(kit, trainer, loader, solver, example):
    def run(*callbacks):
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(7)
        model = kit.Lit(example=example)
        torch.manual_seed(8)
        model.net = Dropping(model.net)
        trainer(*callbacks, epochs=2).fit(model, loader(kit))
        return kit.flat(model), torch.rand(1), random.random(), np.random.rand()

    with_callbacks = run(
        GroupLasso("coupled", 0.0, solver=solver), L1(0.0, solver=solver), SparsityMonitor(), Slim(None)
    )
    without = run()
    assert torch.equal(with_callbacks[0], without[0])
    assert with_callbacks[1:] == without[1:]


def test_buffers_and_modes_stay(kit, trainer):
    modes = []

    class Look(SparsityMonitor):
        def on_train_epoch_end(self, trainer, pl_module):
            before = {k: v.clone() for k, v in pl_module.state_dict().items()}
            pl_module.net.bn.eval()
            super().on_train_epoch_end(trainer, pl_module)
            modes.append((pl_module.training, pl_module.net.bn.training))
            pl_module.net.bn.train()
            assert all(torch.equal(before[k], v) for k, v in pl_module.state_dict().items())

    trainer(Look()).fit(kit.Lit(), kit.loader())
    assert modes == [(True, False)]

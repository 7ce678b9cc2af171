import math
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from _peers_halfspace import HalfSpace, half_space_
from _peers_networks import NETWORKS, macs, thin_factor
from _peers_torch_pruning import cut, left_after, pruner
from _peers_training import Batches, Training
from torch import nn

from ssl_prune import cost, slim
from ssl_prune.data import ImageTensors
from ssl_prune.groups import Member, Partition
from ssl_prune.models import ResNet

SHAPE = (3, 8, 8)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (96, *SHAPE), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (96,), generator=generator)
    noise = lambda batch: batch ^ torch.randint(2, batch.shape, dtype=torch.uint8)  # noqa: E731
    return ImageTensors(pixels, labels, (0.5,) * 3, (0.25,) * 3, augment=noise)


@pytest.mark.parametrize("share", [0.25, pytest.param(0.5, marks=pytest.mark.slow), 1.0])
def test_the_thin_network_is_the_largest_that_fits(share):
    build = NETWORKS["resnet8"]
    factor, dense = thin_factor(build, SHAPE, share, steps=12), macs(build(1.0, SHAPE), SHAPE)
    assert macs(build(factor, SHAPE), SHAPE) <= share * dense
    assert share == 1.0 or macs(build(factor + 2**-11, SHAPE), SHAPE) > share * dense


def test_a_share_that_no_thin_network_has():
    with pytest.raises(ValueError, match="no uniform network"):
        thin_factor(NETWORKS["resnet8"], SHAPE, 1e-6)


def test_the_half_space_step_shrinks_what_goes_on_and_ends_what_turns():
    weight = nn.Parameter(torch.tensor([[2.0, 0.0], [2.0, 2.0], [-1.0, 0.0], [-1.0, 0.0]]))
    rows = torch.arange(4)
    groups = Partition([Member("weight", weight, rows[:, None])], ("layer",), torch.zeros_like(rows), "row")
    before = [torch.tensor([[1.0, 0.0], [1.0, 3.0], [1.0, 0.0], [1.0, 0.0]])]
    gone = half_space_(groups, before, torch.tensor([False, True, True, False]), 0.5)
    assert gone.tolist() == [False, False, True, False]
    assert weight.tolist() == [[2.0, 0.0], [1.0, 1.0], [0.0, 0.0], [-1.0, 0.0]]


def test_batches_depend_on_state_and_epoch_alone(images):
    epoch = 0
    batches = Batches(images, 40, 7, lambda: epoch)

    def drawn():
        return torch.cat([x for x, _ in batches])

    first = drawn()
    torch.manual_seed(99)
    assert torch.equal(drawn(), first)
    assert len(batches) == 3
    epoch = 1
    assert not torch.equal(drawn(), first)


@pytest.mark.slow
def test_a_run_in_parts_has_the_learning_rates_of_one_run(images):
    class Rates(pl.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    data = SimpleNamespace(train_set=images, batch_size=16, input_shape=SHAPE)
    found = []
    for parts in ([4], [1, 3]):
        training, rates = Training(data, 0, 4, 1e-4, "32-true", lr=0.3, warmup=0.25), Rates()
        network = training.build(lambda: ResNet((1, 1), (8, 16), image_size=8))
        for epochs in parts:
            training.fit(network, epochs, [rates])
        found.append(rates.seen)
    assert found[0] == pytest.approx(found[1])
    steps = len(found[0])
    shares = [step / steps for step in range(steps)]
    line = [min(1.0, (share + 1 / steps) / 0.25) for share in shares]
    wanted = [0.3 * rise * (1 + math.cos(math.pi * share)) / 2 for rise, share in zip(line, shares, strict=True)]
    assert found[0] == pytest.approx(wanted)


@pytest.mark.slow
def test_half_space_training_meets_its_share(images):
    data = SimpleNamespace(train_set=images, batch_size=16, input_shape=SHAPE)
    training = Training(data, 0, 4, 1e-4, "32-true")
    network = training.build(lambda: ResNet((1, 1), (8, 16), image_size=8))
    dense, x = macs(network, SHAPE), torch.zeros(1, *SHAPE)
    halfspace = HalfSpace(network, x, 0.4)
    training.fit(network, callbacks=[halfspace])
    assert torch.equal(~halfspace.groups.alive(), halfspace.dead)
    assert 0.3 < macs(slim(network, x).model, SHAPE) / dense <= 0.4
    assert training.meter.total == 3 * dense * 96 * 4


def test_torch_pruning_is_cut_to_just_below_the_share():
    network, x = ResNet((1, 1), (8, 16), image_size=8), torch.zeros(1, *SHAPE)
    made, dense = pruner(network, x, None), macs(network, SHAPE)
    group = next(g for g in made.step(interactive=True) if made.DG.check_pruning_group(g))
    names = {module: name for name, module in network.named_modules()}
    layers = {name: float(layer.macs) for name, layer in cost(network, x).layers.items()}
    wanted = left_after(made, group, layers, names)
    group.prune()
    assert {name: layer.macs for name, layer in cost(network, x).layers.items()} == pytest.approx(wanted)
    cut(made, x, 0.4)
    assert macs(network, SHAPE) <= 0.4 * dense
    assert network.training

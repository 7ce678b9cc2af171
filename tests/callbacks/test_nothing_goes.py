"""A run of which nothing can be removed says so at its start, layer by layer."""

import pytest
import torch
from torch import nn

from ssl_prune.callbacks import L1, GroupLasso, Slim


class Sorted(nn.Module):
    """Sorted channels have no places of their own."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4 * 16, 3)

    def forward(self, x):
        return self.fc(self.conv(x).sort(1).values.flatten(1))


def run(kit, trainer, net, begins, **options):
    model = kit.Lit(**options)
    model.net = net
    cut = Slim(None, latency_batch=0)
    step = model.training_step
    model.training_step = lambda batch, batch_idx: begins() or step(batch, batch_idx)
    trainer(L1(0.01), cut).fit(model, kit.loader())
    return cut


@pytest.mark.parametrize("example", [True, False])
def test_it_is_said_before_the_first_step(kit, trainer, recwarn, example):
    said = []

    def begins():
        said.append(len([w for w in recwarn if "no channel of Sorted can be removed" in str(w.message)]))

    cut = run(kit, trainer, Sorted(), begins, example=example)
    assert said == [1, 1, 1]
    (warning,) = [str(w.message) for w in recwarn if "no channel of Sorted" in str(w.message)]
    assert "; conv: an operator runs along the channels" in warning
    assert "; fc: it reaches an output of the network" in warning
    before, after = cut.report.slim.macs
    assert before == after


@pytest.mark.parametrize("granularity", ["filter", "coupled"])
def test_a_penalty_without_groups_is_refused_layer_by_layer(kit, trainer, granularity):
    model = kit.Lit()
    model.net = Sorted()
    with pytest.raises(ValueError, match=r"no .* groups.*; conv: an operator runs along the channels; fc: it reaches"):
        trainer(GroupLasso(granularity, 0.1)).fit(model, kit.loader())


def test_nothing_is_said_of_a_network_that_can_be_cut(kit, trainer, recwarn):
    run(kit, trainer, kit.Net(), lambda: None)
    assert not [w for w in recwarn if "can be removed" in str(w.message)]


def test_looking_leaves_the_run_as_it_is(kit, trainer):
    """Random numbers among it: dropout draws the same with and without."""
    found = []
    for callbacks in ([], [Slim(None, latency_batch=0)]):
        model = kit.Lit()
        model.net = nn.Sequential(kit.Net(), nn.Dropout(0.5), nn.Linear(3, 3))
        torch.manual_seed(5)
        trainer(*callbacks).fit(model, kit.loader())
        found.append(kit.flat(model))
    assert torch.equal(*found)

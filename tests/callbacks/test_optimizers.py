"""Several optimizers, several networks, learning rates of their own."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from ssl_prune._lightning import pl
from ssl_prune.callbacks import L1, Budget, GroupLasso, Slim, SparsityMonitor
from ssl_prune.groups import partition
from ssl_prune.penalties import GroupLasso as Penalty


def generator():
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))


def critic():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


class Duel(pl.LightningModule):
    """Two networks in turns, each with its own optimizer; the critic steps on every second batch only."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(1)
        self.generator, self.critic = generator(), critic()

    def training_step(self, batch, batch_idx):
        g, c = self.optimizers()
        g.zero_grad()
        self.manual_backward(self.critic(self.generator(batch)).square().mean())
        g.step()
        if batch_idx % 2:
            c.zero_grad()
            self.manual_backward((self.critic(self.generator(batch).detach()) - 1).square().mean())
            c.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.generator.parameters(), lr=0.1), torch.optim.Adam(self.critic.parameters(), lr=0.02)


@pytest.fixture
def noise():
    batches = [torch.randn(6, 3, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    return DataLoader(batches, batch_size=None)


def test_two_networks_and_two_optimizers(kit, trainer, noise):
    model = Duel()
    callbacks = GroupLasso("neuron", 1.0, module="generator"), GroupLasso("neuron", 2.0, module="critic")
    trainer(*callbacks, epochs=2).fit(model, noise)

    expected = Duel()
    g, c = (
        torch.optim.SGD(expected.generator.parameters(), lr=0.1),
        torch.optim.Adam(expected.critic.parameters(), lr=0.02),
    )
    groups = [partition(net, "neuron") for net in (expected.generator, expected.critic)]
    for i, batch in enumerate([*noise, *noise]):
        g.zero_grad()
        expected.critic(expected.generator(batch)).square().mean().backward()
        g.step()
        Penalty().prox(groups[0], 0.1 * 1.0)
        if i % 2:
            c.zero_grad()
            (expected.critic(expected.generator(batch).detach()) - 1).square().mean().backward()
            c.step()
            Penalty().prox(groups[1], 0.02 * 2.0)
    assert torch.equal(kit.flat(model), kit.flat(expected))
    assert [c.solver._counts for c in callbacks] == [[8, 4], [8, 4]]


@pytest.mark.parametrize("solver", ["proximal", "subgradient"])
def test_one_callback_over_both(trainer, noise, solver):
    model, callback = Duel(), L1(0.5, solver=solver, threshold=0.02 if solver == "subgradient" else None)
    trainer(callback, epochs=2).fit(model, noise)
    assert callback.solver.step_count == 8
    assert all((p == 0).any() for p in (model.generator[0].weight, model.critic[0].weight))


def test_only_the_named_layers(trainer, noise):
    model, before = Duel(), Duel()
    trainer(L1(50.0, include="generator.0")).fit(model, noise)
    assert not model.generator[0].weight.any()
    assert (model.generator[2].weight != 0).all()
    assert (model.critic[0].weight != before.critic[0].weight).any()


def test_the_example_of_one_network_among_several(trainer, noise, tmp_path):
    """example_input_array belongs to the LightningModule's own forward; the critic gets what that hands it."""

    class Whole(Duel):
        def forward(self, z):
            return self.critic(self.generator(z))

    model = Whole()
    model.example_input_array = torch.randn(2, 3)
    callback, slim = GroupLasso("coupled", 4.0, module="critic"), Slim("c.safetensors", module="critic")
    trainer(callback, SparsityMonitor(module="critic"), slim, epochs=3).fit(model, noise)
    assert slim.report.slim.macs[0] == 4 * 8 + 8
    assert (tmp_path / "c.safetensors").exists()


def test_a_coupled_group_over_two_optimizers_is_refused(kit, trainer):
    class Split(kit.Lit):
        def configure_optimizers(self):
            first = [*self.net.conv1.parameters()]
            rest = [p for p in self.parameters() if all(p is not q for q in first)]
            return torch.optim.SGD(first, lr=0.1), torch.optim.SGD(rest, lr=0.1)

        def training_step(self, batch, batch_idx):
            raise AssertionError("refused before training")

    model = Split()
    model.automatic_optimization = False
    with pytest.raises(ValueError, match=r"conv1.*spans two of the attached optimizers"):
        trainer(GroupLasso("coupled", 0.1)).fit(model, kit.loader())


def test_frozen_layers_are_named_with_the_way_out(kit, trainer):
    model = kit.Lit(optimizer=lambda p: torch.optim.SGD([q for q in p if q.dim() < 4], lr=0.1))
    with pytest.raises(ValueError, match=r"conv1\.weight is in none of the attached optimizers.*exclude"):
        trainer(GroupLasso("filter", 0.1)).fit(model, kit.loader())


def test_each_parameter_group_has_its_own_step(kit, trainer):
    def optimizer(params):
        params = list(params)
        return torch.optim.SGD([{"params": params[:2], "lr": 0.0}, {"params": params[2:]}], lr=0.1)

    model, before = kit.Lit(optimizer=optimizer, scheduler=False), kit.Lit()
    trainer(GroupLasso("filter", 20.0, include="conv*")).fit(model, kit.loader())
    assert torch.equal(model.net.conv1.weight, before.net.conv1.weight)
    assert not model.net.conv2.weight.any()


def test_a_budget_over_groups_of_two_optimizers_counts_them(kit, trainer):
    class Two(kit.Lit):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.net = nn.Sequential(nn.Flatten(), generator_of(36), nn.ReLU(), critic())

        def training_step(self, batch, batch_idx):
            self.manual_backward(self(batch[0]).square().mean())
            for optimizer in self.optimizers():
                optimizer.step()

        def configure_optimizers(self):
            # The first hidden layer is trained by one, the second by the other.
            first, second = list(self.net[1].parameters()), list(self.net[3].parameters())
            return torch.optim.SGD(first, lr=0.1), torch.optim.SGD(second, lr=0.1)

    lasso = GroupLasso("coupled", exclude=["1.2"])
    with pytest.raises(ValueError, match="trained by 2 optimizers"):
        trainer(lasso, Budget(macs=0.8)).fit(Two(), kit.loader())


def generator_of(features):
    return nn.Sequential(nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, 4))

"""What is timed is what the network trains on, as the network gets it; where that cannot be had, the example."""

from collections import OrderedDict

import pytest
import torch
from wide import Lit, loader, params

from ssl_prune import cost
from ssl_prune.callbacks import Budget, GroupLasso, Slim
from ssl_prune.callbacks._timed import TimedBatch
from ssl_prune.utils.inputs import batch_of

EXAMPLE = torch.full((1, 1, 6, 6), 7.0)


def images(number, size=6):
    return torch.randn(number, 1, size, size, generator=torch.Generator().manual_seed(number))


def timed(size, *batches, module=None, example=EXAMPLE):
    found = TimedBatch(size)
    for batch in batches:
        found.take(batch)
    module = Lit() if module is None else module
    return found, found.inputs(module, module.net, example)


def test_samples_are_gathered_until_there_are_enough():
    first, second = images(5), images(4)
    gathered = torch.cat([first, second])
    found, batch = timed(8, [first, torch.zeros(5)], [second, torch.zeros(4)], [images(3), torch.zeros(3)])
    assert found.full
    assert torch.equal(batch, gathered[:8])
    assert found.inputs(None, None, None) is batch  # made once
    first.zero_()  # a loader may use its memory again
    assert torch.equal(batch, gathered[:8])
    found, batch = timed(3, [second, torch.zeros(4)])
    assert found.full
    assert torch.equal(batch, second[:3])


def test_until_then_more_are_made_of_those_there_are():
    found, batch = timed(8, [images(3), torch.zeros(3)])
    assert not found.full
    assert torch.equal(batch[:3], images(3))
    assert torch.equal(batch[3:].flatten(1).sort(1).values, images(3).flatten(1).sort(1).values[[0, 1, 2, 0, 1]])
    assert len(batch.unique(dim=0)) == 8
    found.take([images(5), torch.zeros(5)])
    assert torch.equal(found.inputs(Lit(), Lit().net, EXAMPLE), torch.cat([images(3), images(5)]))


@pytest.mark.parametrize(
    "batch",
    [
        ["no", "tensor"],
        7,
        {"x": images(4), "scale": torch.tensor(2.0)},
        {"x": images(4), "other": torch.zeros(3)},
        [images(4, size=8), torch.zeros(4)],  # another size than the example
        [images(4).double().long(), torch.zeros(4)],
        {},
    ],
)
def test_what_cannot_be_timed_is_made_of_the_example(batch):
    _, made = timed(8, batch)
    assert torch.equal(made, batch_of(EXAMPLE, 8))


def test_samples_of_another_size_are_left_out():
    found, batch = timed(
        8, [images(3), torch.zeros(3)], [images(5, size=7), torch.zeros(5)], [images(5), torch.zeros(5)]
    )
    assert found.full
    assert torch.equal(batch[:3], images(3))


def test_the_network_gets_what_the_forward_hands_it():
    class Scaled(Lit):
        def forward(self, image, label=None):
            return self.net(image / 2)

    _, batch = timed(4, OrderedDict(image=images(4), label=torch.zeros(4), name=["a", "b", "c", "d"]), module=Scaled())
    assert torch.equal(batch, images(4) / 2)
    _, batch = timed(4, [images(4), torch.zeros(4)], module=Lit(double=True), example=EXAMPLE.double())
    assert torch.equal(batch, images(4).double())


def test_tokens_are_timed_as_they_are():
    class Words(Lit):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Embedding(9, 3)

    tokens = torch.arange(8).view(4, 2)
    _, batch = timed(4, [tokens, torch.zeros(4)], module=Words(), example=torch.zeros(1, 2, dtype=torch.long))
    assert torch.equal(batch, tokens)


def test_nothing_is_timed():
    found, _ = timed(0, [images(3), torch.zeros(3)])
    assert found.full


@pytest.mark.parametrize("example", [True, False])
def test_a_run_times_the_first_samples_of_its_training(trainer, monkeypatch, example):
    seen, reports = [], []

    def compare(first, second, inputs, **_):
        seen.append(inputs)
        return cost(first, inputs).macs, cost(second, inputs).macs

    def report(first, second, inputs, **_):
        reports.append(inputs)
        assert all((p != 0).all() for p in first.parameters())
        return 2.0, 1.0

    monkeypatch.setattr("ssl_prune.budget.measure.compare_latency", compare)
    monkeypatch.setattr("ssl_prune.budget.measure.PLACES", 1)
    monkeypatch.setattr("ssl_prune.callbacks.slim.compare_latency", report)
    lit, budget = Lit(example=example), Budget(latency=0.7, latency_batch=20)
    trainer(budget, GroupLasso("coupled"), Slim(None, latency_batch=24), epochs=4).fit(lit, loader())
    wanted = torch.stack([loader().dataset[i][0] for i in range(24)])
    assert len(seen) > 2
    assert all(torch.equal(batch, wanted[:20]) for batch in seen[1:])  # the first one is before training
    assert torch.equal(reports[0], wanted)


@pytest.mark.slow
def test_milliseconds_are_a_share_of_the_time_of_the_training_data(trainer, monkeypatch):
    monkeypatch.setattr("ssl_prune.sizes.latency_model.latency", lambda *_, **__: 0.01)
    monkeypatch.setattr("ssl_prune.budget.problem.latency", lambda *_, **__: 0.008)
    monkeypatch.setattr(
        "ssl_prune.budget.measure.compare_latency", lambda first, second, *_, **__: (params(first), params(second))
    )
    budgets = []
    for limits in ({"latency_ms": 4.0}, {"latency": 0.5}, {"latency_ms": 4.0, "params": 0.6}):
        budget = Budget(**limits, latency_batch=16)
        trainer(GroupLasso("coupled"), budget, epochs=4).fit(Lit(), loader())
        budgets.append(budget.problem.controller.limits)
    assert budgets == [{"latency": 0.5}, {"latency": 0.5}, {"params": 0.6, "latency": 0.5}]

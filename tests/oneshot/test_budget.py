"""A size at once: met, stated, proven, and better chosen with data than without."""

import pytest
import torch
import torch.nn.functional as F
from fused import Fused
from torch import nn

from ssl_prune import cost, slim
from ssl_prune.budget import Limits
from ssl_prune.graph import trace
from ssl_prune.oneshot.budget import apply_budget
from ssl_prune.report.run import RunReport


def data(count=64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, 12, 12, generator=generator)
    return x, (x.mean((1, 2, 3)) > 0).long()


def trained():
    """A small network that has learned something, so that its channels differ."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 2),
    )  # fmt: skip
    x, y = data(256)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def net():
    return trained()


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"params": 0.3}, {"macs": 0.6, "params": 0.4}, {"params": 1500}])
def test_the_size_is_met_and_stated(net, budget):
    x, y = data()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    result = slim(net, x[:1], budget=budget, data=[(x, y)])
    dense, got = cost(net, x[:1]), cost(result.model, x[:1])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    change = result.report.budget
    assert change is not None
    for kind, value in budget.items():
        share = getattr(got, kind) / getattr(dense, kind)
        assert share <= (value if value <= 1 else value / getattr(dense, kind))
        assert share == pytest.approx(change.left[kind])
    assert result.report.max_error < 1e-5
    assert str(change) in str(result.report)
    # The plan alone does the same to the network with those zeros.
    assert 0 < change.max_difference < 2


def test_data_tell_more_than_norms(net):
    x, y = data(256)
    losses = []
    for given in ([(x[:128], y[:128])], None):
        small = slim(net, x[:1], budget={"macs": 0.35}, data=given).model
        losses.append(F.cross_entropy(small(x[128:]), y[128:]).item())
    assert losses[0] < losses[1]


def test_widths_are_multiples(net):
    x, y = data()
    result = slim(net, x[:1], budget={"macs": 0.6}, data=[(x, y)], round_to=8)
    widths = [m.out_channels for m in result.model.modules() if isinstance(m, nn.Conv2d)]
    assert all(width % 8 == 0 for width in widths)
    assert result.report.macs[1] <= 0.6 * result.report.macs[0]


def test_modes_and_gradients_are_left_as_they_were(net):
    x, y = data()
    net.train()
    copy, _ = apply_budget(trace(net, x[:1]), net, x[:1], Limits(macs=0.5), [(x, y)])
    assert all(m.training for m in net.modules())
    assert all(p.grad is None for p in copy.parameters())
    net.eval()


def test_the_record_travels_in_a_report(net, tmp_path):
    x, y = data()
    report = RunReport(slim(net, x[:1], budget={"macs": 0.5}, data=[(x, y)]).report)
    report.save(tmp_path / "net.json")
    assert RunReport.load(tmp_path / "net.json").slim.budget == report.slim.budget


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"mac": 0.5}, "got 'mac', expected a mapping with some of macs, params, latency"),
        (0.5, "expected a mapping"),
        ({"macs": 0}, "macs must be a share"),
        ({"macs": 1.0}, "is met already"),
        ({"macs": 1e-6}, "cannot be reached"),
        ({}, "at least one"),
    ],
)
def test_wrong_budgets_are_refused(net, budget, message):
    with pytest.raises(ValueError, match=message):
        slim(net, data()[0][:1], budget=budget)


def test_no_batch_is_refused(net):
    with pytest.raises(ValueError, match="got no batch"):
        slim(net, data()[0][:1], budget={"macs": 0.5}, data=[])


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (lambda x, y: x, "batch 1 is a Tensor, expected a pair"),
        (lambda x, y: {"x": x, "y": y}, "batch 1 is a dict, expected a pair"),
        (lambda x, y: (x,), "batch 1 is a tuple, expected a pair"),
        (lambda x, y: (x[:, :1], y), "batch 1 does not fit the network or the loss: RuntimeError: .*3 channels"),
        (lambda x, y: (x, y + 9), "batch 1 does not fit the network or the loss: IndexError: Target"),
        (lambda x, y: (x * float("nan"), y), "batch 1 has a loss that is not finite.*: nan"),
    ],
)
def test_a_batch_that_tells_nothing_is_refused(net, batch, words):
    x, y = data()
    with pytest.raises(ValueError, match=f"data: {words}"):
        slim(net, x[:1], budget={"macs": 0.5}, data=[(x, y), batch(x, y)])


def test_what_is_not_trained_counts_as_much(net):
    """Its gradients would be missing, and its channels the first to go."""
    x, y = data()
    part, whole = trained(), trained()
    part[0].requires_grad_(False)
    part[1].requires_grad_(False)
    whole.requires_grad_(False)
    wanted = slim(net, x[:1], budget={"macs": 0.5}, data=[(x, y)])
    for frozen in (part, whole):
        result = slim(frozen, x[:1], budget={"macs": 0.5}, data=[(x, y)])
        flags = {name: p.requires_grad for name, p in frozen.named_parameters()}
        assert {name: p.requires_grad for name, p in result.model.named_parameters()} == flags
        for (name, a), b in zip(result.model.state_dict().items(), wanted.model.state_dict().values(), strict=True):
            assert torch.equal(a, b), name


def test_data_without_a_budget_are_refused(net):
    x, y = data()
    with pytest.raises(ValueError, match="only used to choose for a budget"):
        slim(net, x[:1], data=[(x, y)])


@pytest.mark.parametrize("unit", ["share", "milliseconds"])
def test_a_latency_is_measured(net, monkeypatch, unit):
    """Multiply-accumulates to the power 1.5 in place of seconds: the table is wrong and only measurements can meet it."""
    measured = []

    def compare(first, second, inputs, **_):
        measured.append(cost(second, inputs).macs)
        assert not any((p == 0).any() for p in first.parameters())
        return cost(first, inputs).macs ** 1.5, cost(second, inputs).macs ** 1.5

    monkeypatch.setattr("ssl_prune.budget.measure.compare_latency", compare)
    monkeypatch.setattr("ssl_prune.sizes.latency_model.latency", lambda model, inputs, **_: cost(model, inputs).macs)
    monkeypatch.setattr("ssl_prune.sizes.layer_latency._seconds", lambda layer, x, rounds: cost(layer, x).macs)
    x, y = data()
    stated = {"latency": 0.5} if unit == "share" else {"latency_ms": 500 * cost(net, x[:1]).macs}
    result = slim(net, x[:1], budget=stated, data=[(x, y)])
    share = (cost(result.model, x[:1]).macs / cost(net, x[:1]).macs) ** 1.5
    assert 0.47 <= share <= 0.5
    assert result.report.budget.left["latency"] == pytest.approx(share)
    assert 1 < len(measured) < 15


def test_a_latency_that_is_out_of_reach_is_refused(net, monkeypatch):
    def compare(first, second, inputs, **_):
        return 1.0, 0.7  # whatever is cut

    monkeypatch.setattr("ssl_prune.budget.measure.compare_latency", compare)
    x, y = data()
    with pytest.raises(ValueError, match=r"50.00% of the dense latency cannot be reached: .* is at 70.00%"):
        slim(net, x[:1], budget={"latency": 0.5}, data=[(x, y)])


def test_others_go_in_place_of_what_the_proof_keeps():
    """Heads would go first, but their width comes from the input."""
    torch.manual_seed(0)
    net, x = Fused(), torch.randn(1, 5, 8)
    with torch.no_grad():
        net.qkv.weight *= 1e-3
    result = slim(net, x, budget={"macs": 0.6})
    assert result.model.qkv.out_features == 24
    assert result.report.macs[1] <= 0.6 * result.report.macs[0]
    assert result.report.budget.left["macs"] == result.report.macs[1] / result.report.macs[0]
    assert result.report.budget.missed == ""


class Stated(nn.Module):
    """Code that takes no other width than its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        h = torch.relu(self.a(x))
        if h.shape[1] != 8:
            raise ValueError("expected 8 channels")
        return self.b(h)


def test_a_size_that_is_missed_is_said_with_the_reason():
    words = "due 50.00% of the dense macs, reached 100.00% of the dense macs: a larger cut did not pass the proof"
    with pytest.warns(UserWarning, match=words):
        report = slim(Stated(), torch.randn(1, 4), budget={"macs": 0.5}).report
    assert report.budget.left == {"macs": 1.0}
    assert report.budget.missed.startswith("a larger cut did not pass the proof")
    assert "MISSED" in str(report)

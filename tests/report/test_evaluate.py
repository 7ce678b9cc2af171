"""Two networks on the same batches, against numbers counted by hand."""

import pytest
import torch
from torch import nn

from ssl_prune import cost, slim
from ssl_prune.latency import compare_latency
from ssl_prune.report.evaluate import evaluate
from ssl_prune.utils.inputs import in_precision_of


class Table(nn.Module):
    """Output row `i` of a table for input `i`."""

    def __init__(self, rows):
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows))

    def forward(self, x):
        return self.rows[x.long().flatten()]


SPARSE = Table([[2.0, 1.0], [0.0, 4.0], [3.0, 1.0]])
SLIM = Table([[2.0, 1.0], [1.0, 0.5], [3.0, 1.0]])


def test_accuracy_and_difference_over_uneven_batches():
    batches = [(torch.tensor([0.0, 1.0]), torch.tensor([0, 1])), (torch.tensor([2.0]), torch.tensor([1]))]
    found = evaluate("validation", SPARSE, SLIM, batches)
    assert (found.name, found.samples) == ("validation", 3)
    assert found.accuracy == pytest.approx((2 / 3, 1 / 3))
    assert found.difference == pytest.approx(3.5 / 4)


@pytest.mark.parametrize(
    "target",
    [
        None,
        torch.tensor([0.0, 1.0]),
        torch.tensor([[0], [1]]),
        torch.tensor([0, 2]),
        torch.tensor([0, -100]),
        torch.tensor([0]),
    ],
)
def test_what_is_no_classification_has_no_accuracy(target):
    x = torch.tensor([0.0, 1.0])
    found = evaluate("test", SPARSE, SLIM, [(x,) if target is None else (x, target)])
    assert found.accuracy is None
    assert found.samples == 2


def test_one_output_is_no_classification():
    one = Table([[2.0], [1.0], [3.0]])
    assert evaluate("test", one, one, [(torch.tensor([0.0, 1.0]), torch.tensor([0, 1]))]).accuracy is None


def test_all_batches_or_none():
    x, y = torch.tensor([0.0, 1.0]), torch.tensor([0, 1])
    assert evaluate("test", SPARSE, SLIM, [(x, y), (x, y.float())]).accuracy is None
    assert evaluate("test", SPARSE, SLIM, []) is None
    assert evaluate("test", SPARSE, SLIM, ["text"]) is None
    assert evaluate("test", SPARSE, SLIM, [{"x": x}]) is None


def test_several_inputs():
    class Two(nn.Module):
        def forward(self, a, b):
            return a - b

    a, b = torch.rand(3, 2), torch.rand(3, 2)
    assert evaluate("test", Two(), Two(), [((a, b), None), ({"a": a, "b": b}, None)]).samples == 6


def test_modes_and_gradients_are_left_alone():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    net[1].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert evaluate("test", net, net, [(torch.randn(8, 2), torch.zeros(8).long())]).difference == 0
    assert [m.training for m in net] == [True, False, True]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_inputs_follow_the_precision_of_the_network(dtype):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype).eval()
    with torch.no_grad():
        net[0].weight[:3], net[0].bias[:3] = 0, 0
    x = torch.randn(5, 4)  # as data come
    result = slim(net, x, tolerance=0.05)
    assert result.model[0].out_features == 5
    assert evaluate("test", net, result.model, [(x, torch.zeros(5, dtype=torch.long))]).difference < 0.05
    assert cost(net, x).macs == 5 * (4 * 8 + 8 * 3)
    assert min(compare_latency(net, result.model, x, rounds=1, warmup=0)) > 0


def test_what_is_no_real_number_keeps_its_type():
    inputs = {"a": torch.zeros(1), "b": torch.zeros(1, dtype=torch.int64), "c": torch.zeros(1, dtype=torch.complex64)}
    found = in_precision_of(nn.Linear(1, 1).double(), inputs)
    assert [t.dtype for t in found.values()] == [torch.float64, torch.int64, torch.complex64]
    mixed = nn.Sequential(nn.Linear(1, 1).double(), nn.Linear(1, 1))
    assert in_precision_of(mixed, inputs) is inputs

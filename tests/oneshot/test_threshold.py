"""A threshold sets whole small channels to zero, nothing else, and says what that did."""

import copy
import functools
import json

import pytest
import torch
from torch import nn

from ssl_prune import SlimError, load_slim, save_slim, slim
from ssl_prune.graph import trace
from ssl_prune.oneshot.threshold import apply_threshold
from ssl_prune.report.run import RunReport
from ssl_prune.slimming.proof.differences import relative_error

T = 1e-3


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.n0 = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.deep, self.n1 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.body, self.n2 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.n0(self.stem(x)))
        y = torch.relu(self.n1(self.deep(x)))
        return self.head(torch.relu(x + self.n2(self.body(y))).mean((2, 3)))


def nearly(units=(1, 4, 6), size=T):
    """All that writes the units is as small as `size`; running statistics are not."""
    torch.manual_seed(0)
    net = Residual().double().eval()
    with torch.no_grad():
        for layer in (net.n0, net.n1, net.n2):
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.normal_()
            layer.running_mean.normal_()
        for unit in units:
            for layer in (net.stem, net.n0, net.deep, net.n1, net.body, net.n2):
                for parameter in layer.parameters(recurse=False):
                    parameter[unit] = size * (2 * torch.rand_like(parameter[unit]) - 1)
    return net


def x():
    return torch.randn(2, 2, 6, 6, dtype=torch.float64)


@functools.cache
def graph():
    """One for all: it is of the structure, not of the weights."""
    return trace(Residual().double().eval(), x())


def cut(net, example=None, **arguments):
    return slim(net, x() if example is None else example, graph=graph(), **arguments)


def test_small_channels_go_and_large_ones_stay_as_they_are():
    net = nearly()
    before = copy.deepcopy(net.state_dict())
    example = x()
    assert cut(net, example).model.stem.out_channels == 8
    result = cut(net, example, threshold=T)
    assert result.model.stem.out_channels == 5
    assert result.model.deep.groups == 5
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    kept = [0, 2, 3, 5, 7]
    assert torch.equal(result.model.stem.weight, net.stem.weight[kept])
    assert torch.equal(result.model.n1.bias, net.n1.bias[kept])
    assert torch.equal(result.model.head.weight, net.head.weight[:, kept])


def test_the_report_tells_both_errors_apart():
    net, example = nearly(), x()
    result = cut(net, example, threshold=T)
    change = result.report.threshold
    assert change.threshold == T
    assert sum(change.units.values()) == 3
    per_unit = {"stem": 18, "n0": 2, "deep": 10, "n1": 2, "body": 9, "n2": 2}
    assert change.entries == {name: 3 * count for name, count in per_unit.items()}
    assert result.report.max_error < 1e-12  # against the network after the threshold
    difference = relative_error(net(example), result.model(example))
    assert 1e-12 < difference <= change.max_difference < 1e-2
    assert f"{change.max_difference:.1e}" in str(result.report)
    assert "threshold 0.001: 129 entries of 3 channels" in str(result.report)
    assert cut(net, example).report.threshold is None
    assert cut(net, example, threshold=0).report.threshold is None


def test_the_slim_network_equals_the_one_whose_entries_were_set_by_hand():
    net, example = nearly(), x()
    by_hand = copy.deepcopy(net)
    with torch.no_grad():
        for layer in (by_hand.stem, by_hand.n0, by_hand.deep, by_hand.n1, by_hand.body, by_hand.n2):
            for parameter in layer.parameters(recurse=False):
                parameter[[1, 4, 6]] = 0
    model = cut(net, example, threshold=T).model
    fresh = x()
    torch.testing.assert_close(model(fresh), by_hand(fresh), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["stem.weight", "n0.weight", "n0.bias", "deep.weight", "n1.bias", "body.bias", "n2.weight"]
)
def test_one_large_entry_keeps_the_channel_whole(name):
    net = nearly()
    with torch.no_grad():
        net.get_parameter(name)[4].view(-1)[0] = 1.01 * T
    changed, change = apply_threshold(graph(), net, x(), T)
    assert sum(change.units.values()) == 2
    for layer in ("stem", "deep", "body"):
        assert torch.equal(changed.get_parameter(f"{layer}.weight")[4], net.get_parameter(f"{layer}.weight")[4])
        assert changed.get_parameter(f"{layer}.weight")[1].count_nonzero() == 0


def test_the_threshold_itself_counts_as_zero_and_a_single_small_entry_does_not():
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight[:] = 1.0
        net[0].weight[1] = 0.25
        net[0].weight[2] = 0.2500001
        net[0].weight[3, 0] = 1e-9
        net[2].weight[:] = 1.0
    changed, change = apply_threshold(trace(net, torch.randn(2, 3)), net, torch.randn(2, 3), 0.25)
    assert change.units == {"0": 1}
    assert changed[0].weight[1].count_nonzero() == 0
    assert torch.equal(changed[0].weight[[0, 2, 3]], net[0].weight[[0, 2, 3]])


def test_a_channel_that_is_hardly_read_goes_too():
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        net[2].weight[:, [0, 3]] = 1e-5
    example = torch.randn(4, 3)
    result = slim(net, example, threshold=1e-4)
    assert result.model[0].out_features == 3
    assert result.report.threshold.entries == {"2": 4}
    assert result.report.threshold.units == {"0": 2}


def test_tied_weights_stay_tied():
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.Linear(5, 2))
    net[4].weight = net[2].weight
    with torch.no_grad():
        for layer in (net[0], net[2], net[4]):
            layer.weight[2], layer.bias[2] = 1e-6, 1e-6
    changed, _ = apply_threshold(trace(net, torch.randn(2, 3)), net, torch.randn(2, 3), 1e-5)
    assert changed[4].weight is changed[2].weight
    assert changed[2].weight[2].count_nonzero() == 0


def test_files_and_the_json_report(tmp_path):
    result = cut(nearly(), threshold=T)
    save_slim(tmp_path / "net.safetensors", result)
    again, fresh = load_slim(tmp_path / "net.safetensors", Residual().double().eval()), x()
    assert torch.equal(again(fresh), result.model(fresh))
    report = RunReport(result.report)
    report.save(tmp_path / "net.json")
    assert RunReport.load(tmp_path / "net.json") == report
    old = json.loads((tmp_path / "net.json").read_text())
    del old["slim"]["threshold"]  # as it was written before there was one
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert RunReport.load(tmp_path / "old.json").slim.threshold is None


@pytest.mark.parametrize("wrong", [-1e-9, float("nan"), float("inf"), "1e-4", True, None])
def test_what_is_no_threshold_is_refused(wrong):
    with pytest.raises(ValueError, match="threshold must be a finite number >= 0, got"):
        slim(nn.Linear(2, 2), torch.randn(1, 2), threshold=wrong)


def test_outputs_that_the_threshold_breaks_are_refused():
    class Divides(nn.Sequential):
        def forward(self, x):
            return 1 / super().forward(x)

    net = Divides(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(1e-4)
    with pytest.raises(SlimError, match=r"threshold=0\.01: .*smaller"):
        slim(net, torch.rand(2, 2) + 1, threshold=0.01)


def test_nan_is_never_small():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")
    with pytest.raises(SlimError, match="own outputs are not finite"):
        slim(net, torch.randn(1, 2), threshold=10.0)

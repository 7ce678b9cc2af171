"""A rule that fails: raised under the tests, said in the report of a user's network, which stays exact."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_prune import slim
from ssl_prune.graph import faults, trace
from ssl_prune.graph.export import program
from ssl_prune.graph.labels import rule_registry as registry
from ssl_prune.slimming.analysis import constants
from ssl_prune.slimming.subject import Subject


class Net(nn.Module):
    """Two convolutions with a function between them, half of whose channels are zero."""

    def __init__(self, function, table=None):
        super().__init__()
        self.function, self.table = function, table
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        with torch.no_grad():
            self.a.weight[:2], self.a.bias[:2] = 0, 0

    def forward(self, x):
        return self.b(self.function(self.a(x), self.table)).mean((2, 3))


def broken(*args, **kwargs):
    raise KeyError("broken on purpose")


PLACES = pytest.mark.parametrize("part", ["labels", "values"])


@pytest.fixture
def pooled(part, monkeypatch):
    """A network whose pooling has a rule that fails, and its input."""
    if part == "labels":
        monkeypatch.setitem(registry._RULES, torch.ops.aten.avg_pool2d, broken)
    else:
        whole = constants.varying

        def varying(node, *args):
            return broken() if "avg_pool2d" in str(node.target) else whole(node, *args)

        monkeypatch.setattr(constants, "varying", varying)
    return Net(lambda y, table: F.avg_pool2d(y, 2)).eval(), torch.randn(2, 3, 6, 6)


@PLACES
def test_the_tests_see_the_error_itself(pooled):
    with pytest.raises(KeyError, match="broken on purpose"):
        slim(*pooled)


@PLACES
def test_a_user_sees_which_rule_failed_and_how(pooled, monkeypatch):
    monkeypatch.setattr(faults, "RAISE", False)
    net, x = pooled
    result = slim(net, x)
    assert torch.equal(result.model(x), net(x))
    (kept,) = [kept for kept in result.report.kept if kept.layer == "a"]
    assert kept.count == 2
    assert "the rule of operator avg_pool2d.default failed with KeyError: 'broken on purpose'" in kept.reason


def test_a_program_whose_writes_cannot_be_renamed_is_taken_apart_by_torch(monkeypatch):
    net, x = Net(lambda y, table: y).eval(), torch.randn(2, 3, 6, 6)
    monkeypatch.setattr(program, "functional", broken)
    with pytest.raises(KeyError, match="broken on purpose"):
        trace(net, x)
    monkeypatch.setattr(faults, "RAISE", False)
    assert trace(net, x).refusal is None


def test_a_short_cut_that_fails_is_not_taken(monkeypatch):
    net, x = Net(lambda y, table: y).eval(), torch.randn(2, 3, 6, 6)
    subject = Subject(trace(net, x), net, x)
    monkeypatch.setattr(constants, "LARGE", 0)
    monkeypatch.setattr(constants, "skipped", broken)
    with pytest.raises(KeyError, match="broken on purpose"):
        constants.ValuePass(subject, [])
    monkeypatch.setattr(faults, "RAISE", False)
    assert constants.ValuePass(subject, []).output_varies


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda y, table: y + F.max_pool2d(table, 3, 1, 1), "operator max_pool2d.default has no rule for a parameter"),
        (lambda y, table: y + F.layer_norm(table, (6,)), "operator layer_norm.default has no rule for a parameter"),
        (lambda y, table: y + F.normalize(table), "a parameter is laid over a value, or a value over it"),
        (lambda y, table: y + torch.select_scatter(table, table[:, 0], 1, 2), "a parameter is laid over a value"),
        (lambda y, table: torch.slice_scatter(y, table[:, :2], 1, 0, 2), "a parameter is laid over a value"),
    ],
    ids=["pooling", "norm", "expanded", "selected", "sliced"],
)
def test_a_parameter_in_place_of_a_value_is_kept_with_the_reason(function, reason):
    table = nn.Parameter(torch.randn(2, 4, 6, 6))
    graph = trace(Net(function, table).eval(), torch.randn(2, 3, 6, 6))
    assert any(found.startswith(reason) for found, _ in graph.pinned)

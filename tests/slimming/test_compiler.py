"""Both compilers answer one protocol, and none of it knows what lies above."""

import ast
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import ssl_prune
from ssl_prune.errors import SlimError
from ssl_prune.slimming.compiler import compiled
from ssl_prune.slimming.fallback.compiler import TrialCompiler
from ssl_prune.slimming.modules import replacements
from ssl_prune.slimming.program_compiler import ProgramCompiler
from ssl_prune.slimming.settings import Settings
from ssl_prune.slimming.tracing import traced

ENGINE = Path(ssl_prune.__file__).parent
ABOVE = {"pipeline", "budget", "oneshot", "shrinking", "report", "sizes"}


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        with torch.no_grad():
            self.first.weight[:2] = 0
            self.first.bias[:2] = 0
            self.last.weight[:, 2] = 0

    def forward(self, x):
        return self.last(self.first(x).relu())


class Branching(Plain):
    def forward(self, x):
        hidden = self.first(x).relu()
        return self.last(hidden) if x.sum() > 0 else -self.last(hidden)


@pytest.fixture(params=[(Plain, ProgramCompiler), (Branching, TrialCompiler)], ids=["export", "autograd"])
def compiler(request):
    network, kind = request.param
    return kind(traced(network(), torch.randn(3, 4)), Settings())


def test_the_first_proof_is_of_what_is_dead(compiler):
    dead, outcome = next(compiler.prove())
    assert torch.equal(dead, compiler.dead())
    assert int(dead.sum()) == 3
    assert outcome.proof.holds
    assert outcome.plan == compiler.plan(dead)
    assert outcome.model.first.out_features == 3
    assert compiler.compare(outcome.model).holds


def test_what_differs_is_told(compiler):
    other = compiler.plan(torch.zeros_like(compiler.dead())).apply(compiler.subject.model)
    with torch.no_grad():
        other.last.bias.add_(1)
    assert not compiler.compare(other).holds


def test_what_stays_is_explained(compiler):
    everything = compiler.explain(torch.zeros_like(compiler.dead()), ())
    assert Counter(kept.layer for kept in everything) == {"first": 1, "last": 1}
    assert not compiler.explain(compiler.dead(), ())


def test_a_repair_takes_what_holds(compiler):
    _, whole = next(compiler.prove())
    dead, outcome = compiler.repair(whole)
    assert outcome.proof.holds
    assert not bool((dead & ~compiler.dead()).any())


def test_both_give_one_kind_of_report(compiler):
    report = compiled(compiler.subject, Settings()).report
    assert report.removed == {"first": 3}
    assert [layer.after for layer in report.layers] == [(3, 4), (2, 3)]
    assert (report.because is None) == (report.tracer == "torch.export") == isinstance(compiler, ProgramCompiler)


def test_computed_weights_that_cannot_be_written_plainly_stay(monkeypatch):
    def refuse(*_):
        raise SlimError("on purpose")

    net, x = Plain(), torch.randn(3, 4)
    parametrizations.spectral_norm(net.first)
    monkeypatch.setattr(replacements, "plain", refuse)
    result = compiled(traced(net, x), Settings())
    assert parametrize.is_parametrized(result.model.first)
    assert result.report.refused is None


def rooms(path):
    """The rooms of the engine that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        yield from (name.split(".")[1] for name in names if name.startswith("ssl_prune."))


def test_slimming_knows_nothing_above_it():
    assert not [path for path in (ENGINE / "slimming").rglob("*.py") if set(rooms(path)) & ABOVE]


def test_only_the_pipeline_knows_zeros_cut_and_history():
    both = {"oneshot", "shrinking"}
    assert [p.stem for p in sorted(ENGINE.rglob("*.py")) if both <= set(rooms(p))] == ["pipeline"]


@pytest.mark.parametrize("wrong", [{"tolerance": -1}, {"tolerance": float("nan")}, {"columns": None}, {"round_to": 0}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)

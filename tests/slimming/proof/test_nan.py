"""NaN proves nothing: it is refused even where the line that looks for it first is gone."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ssl_prune.errors import SlimError
from ssl_prune.slimming.fallback import trials
from ssl_prune.slimming.fallback.trials import Trials
from ssl_prune.slimming.outcome import exports
from ssl_prune.slimming.proof import differences, inner_values, outputs
from ssl_prune.slimming.proof.differences import largest

X = torch.randn(2, 3)


class Several(nn.Module):
    """Three outputs, those named by `wrong` NaN: in all entries or in the last one."""

    def __init__(self, wrong=(), everywhere=False):
        super().__init__()
        self.wrong, self.everywhere = wrong, everywhere

    def forward(self, x):
        outputs = [x, 2 * x, x - 1]
        for place in self.wrong:
            outputs[place] = outputs[place] * torch.nan if self.everywhere else _last_is_nan(outputs[place])
        return outputs


def _last_is_nan(value):
    mask = torch.zeros_like(value)
    mask.view(-1)[-1] = torch.nan
    return value + mask


@pytest.fixture
def unguarded(monkeypatch):
    """Nothing is told from NaN or infinity any more."""
    for module in (differences, trials, inner_values):
        monkeypatch.setattr(module, "math", SimpleNamespace(inf=math.inf, isfinite=lambda _: True))
    monkeypatch.setattr(trials, "finite_error", differences.relative_error)
    assert math.isnan(differences.relative_error(X, X * torch.nan))


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("wrong", [(0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("tolerance", [1e-4, math.inf])
def test_outputs(unguarded, wrong, everywhere, tolerance):
    for proof in (
        outputs.verify(Several(), Several(wrong, everywhere), X, tolerance),
        Trials(Several(), X, tolerance, (), ()).check(Several(wrong, everywhere)),
    ):
        assert not proof.holds
        assert not math.isfinite(proof.max_error)


@pytest.mark.parametrize("wrong", [(0,), (1,), (2,)])
def test_exports(unguarded, wrong):
    assert exports._difference(Several(), Several(), X, 1e-4, [[0]]) is None
    assert exports._difference(Several(), Several(wrong), X, 1e-4, [[0]]) is not None


def test_inner_values(unguarded):
    assert inner_values._compare(X, X, None, X, X, 1e-4) is None
    assert inner_values._compare(X, _last_is_nan(X), None, X, X, 1e-4) is not None


def test_a_network_of_nan_is_not_proven_by_itself(unguarded):
    with pytest.raises(SlimError, match="not finite"):
        outputs.verify(Several((1,)), Several((1,)), X, 1e-4)


@pytest.mark.parametrize(("errors", "expected"), [((), 0.0), ((0.5, 2.0), 2.0), ((1.0, math.inf), math.inf)])
def test_the_largest_error(errors, expected):
    assert largest(errors) == expected
    for place in range(len(errors) + 1):
        assert math.isnan(largest((*errors[:place], math.nan, *errors[place:])))

"""Inputs that are larger than the example, for networks without a program."""

import torch

from ssl_prune.slimming.fallback.trials import trial_inputs


def test_what_is_not_finite_stays_where_it_is():
    x = torch.tensor([0.0, -torch.inf, 3.0, 4.0])
    for what, trial in trial_inputs(x)[1:]:
        assert torch.equal(trial.isfinite(), x.isfinite()), what
        assert trial[1] == -torch.inf


def test_both_parts_of_complex_inputs_are_larger():
    x = torch.complex(torch.randn(200), torch.randn(200))
    trials = dict(trial_inputs(x))
    large, fresh = (torch.view_as_real(trials[what]).std(0) for what in ("large input 4", "fresh input 0"))
    assert bool((large > 2 * fresh).all())

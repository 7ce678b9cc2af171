"""The size that is due: dense before the window, as stated after it, and a cosine or another ramp between."""

import itertools
import math

import pytest
import torch
from torch import nn

from ssl_prune.budget import Controller
from ssl_prune.budget.due_size import window_of
from ssl_prune.budget.solver import BudgetSolver
from ssl_prune.groups import partition
from ssl_prune.schedules import Cosine, Cubic, Linear
from ssl_prune.scores import Magnitude
from ssl_prune.timing import RunLength


def solver(window, limit=0.3, **options):
    groups = partition(nn.Sequential(nn.Linear(3, 4)), "neuron")
    controller = Controller(lambda dead: {"macs": float((~dead).double().mean())}, {"macs": limit}, groups.layer)
    options = {"run": RunLength(40, 10), **options}
    return BudgetSolver(groups, Magnitude(), controller, lambda dead: torch.ones(4), window_of(window), **options)


@pytest.mark.parametrize("window", [("0.25", "0.75"), ("1ep", "30it"), ("10it", "3ep")])
def test_the_due_share_falls_by_a_cosine(window):
    made = solver(window)
    assert (made.first, made.last) == (10, 30)
    shares = [made.due(step)["macs"] for step in range(41)]
    assert shares[:11] == [1.0] * 11
    assert shares[20] == pytest.approx(0.65)
    assert shares[15] == pytest.approx(0.3 + 0.7 * (1 + math.cos(math.pi / 4)) / 2)
    assert shares[30:] == [0.3] * 11  # to the last bit: what is left is compared with it
    assert all(a >= b for a, b in itertools.pairwise(shares))


def test_another_ramp_is_followed():
    made = solver(Cubic(start="0.25", end="0.75"))
    assert made.due(20)["macs"] == pytest.approx(0.3 + 0.7 / 8)


def test_moments_between_steps_are_those_after_them():
    made = solver(("0.26", "0.74"))
    assert (made.first, made.last) == (11, 30)


@pytest.mark.parametrize(
    ("window", "options", "message"),
    [
        (("0.5", "0.51"), {}, "window: from step 20 to 20.4 there is no step in a run of 40 steps"),
        (("3ep", "10it"), {}, "window: from step 30 to 10 there is no step"),
        (("0.5", "0.2"), {}, "window: the last moment must be after the first"),
        ((0.1, 0.65), {}, r"window: got 0\.1, expected a time with its unit"),
        (("0.1",), {}, "window must be two times"),
        (Linear(end="0.5", final=0.5), {}, "must go from 0 to 1"),
        (Cosine(end="0.5", warmup="0.1"), {}, "must go from 0 to 1 without warmup"),
        (("0.1", "0.65"), {"run": RunLength()}, 'window: "0.1" is a share of a run without an end'),
        (("0.1", "0.65"), {"lookahead": 0.05}, r"lookahead: got 0\.05"),
    ],
)
def test_what_is_no_window_is_refused(window, options, message):
    with pytest.raises(ValueError, match=f"^Budget: .*{message}"):
        solver(window, **options)

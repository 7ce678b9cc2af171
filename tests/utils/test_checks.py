"""Wherever a number is given, what is none of its kind is refused by its name, with what was got and what is expected."""

from math import inf, nan

import pytest
import torch
from torch import nn

from ssl_prune import slim
from ssl_prune.budget import Limits
from ssl_prune.callbacks import L1, Budget, Distill, GroupLasso, Penalise, Shrink, Slim
from ssl_prune.groups import partition
from ssl_prune.masks import Mask
from ssl_prune.penalties import GroupLasso as GroupLassoPenalty
from ssl_prune.penalties import GroupMCP, GroupSCAD, SparseGroupLasso
from ssl_prune.schedules import Constant, Inverse, Linear, Step
from ssl_prune.scores import Magnitude, Random, Sum, TaylorGate
from ssl_prune.selection import densities, select
from ssl_prune.selection.removal_order import KeepRules
from ssl_prune.solvers import GatedSolver, ProximalSolver, StepHook, SubgradientSolver
from ssl_prune.timing import RunLength, Time
from ssl_prune.triggers import Stochastic
from ssl_prune.utils.checks import check_number, check_whole


def groups():
    return partition(nn.Sequential(nn.Linear(2, 3)), "neuron")


def solver(kind, **options):
    return kind(**{"groups": groups(), "penalty": GroupLassoPenalty(), "strength": 0.1, **options})


NUMBERS = {
    "Budget: macs": lambda v: Budget(macs=v),
    "Budget: latency_ms": lambda v: Limits(latency_ms=v),
    "Budget: cost_exponent": lambda v: Budget(macs=0.5, cost_exponent=v),
    "Budget: min_keep_ratio": lambda v: Budget(macs=0.5, min_keep_ratio=v),
    "Slim: tolerance": lambda v: Slim(None, tolerance=v),
    "tolerance": lambda v: slim(nn.Linear(2, 2), torch.zeros(1, 2), tolerance=v),
    "threshold": lambda v: Slim(None, threshold=v),
    "Shrink: min_gain": lambda v: Shrink(min_gain=v),
    "Shrink: tolerance": lambda v: Shrink(tolerance=v),
    "Distill: weight": lambda v: Distill(weight=v),
    "Distill: temperature": lambda v: Distill(temperature=v),
    "L1: strength": L1,
    "Penalise: strength": lambda v: Penalise(GroupLassoPenalty(), "filter", v),
    "GroupLasso: threshold": lambda v: GroupLasso("filter", 0.1, "subgradient", threshold=v),
    "GroupLasso: l1_ratio": lambda v: GroupLasso("filter", 0.1, l1_ratio=v),
    "l1_ratio": SparseGroupLasso,
    "gamma": lambda v: GroupMCP(-inf if v == inf else v),  # which is infinite for the group lasso
    "a": lambda v: GroupSCAD(a=-inf if v == inf else v),
    "knee": lambda v: GroupSCAD(knee=v),
    "strength": lambda v: solver(ProximalSolver, strength=v),
    "threshold ": lambda v: solver(SubgradientSolver, threshold=v),
    "threshold  ": lambda v: solver(GatedSolver, threshold=v),
    "TaylorGate: decay": TaylorGate,
    "Sum: each of weights": lambda v: Sum([Magnitude(), Magnitude()], [1.0, v]),
    "Constant: final": lambda v: Constant(final=v),
    "Linear: initial": lambda v: Linear(end="5ep", initial=v),
    "Step: gamma": lambda v: Step(milestones="1ep", gamma=v),
    "Inverse: power": lambda v: Inverse(power=v),
    "Stochastic: probability": Stochastic,
    "a time": lambda v: Time(v, "ep"),
    "densities: sparsity": lambda v: densities("erk", {"a": (3, 2)}, v),
    "densities: a": lambda v: select({"a": torch.ones(2, 2)}, {"a": v}),
    "min_keep_ratio": lambda v: KeepRules(torch.zeros(3, dtype=torch.long), min_keep_ratio=v),
}
WHOLE = {
    "Budget: every": lambda v: Budget(macs=0.5, every=v),
    "Budget: round_to": lambda v: Budget(macs=0.5, round_to=v),
    "Budget: latency_batch": lambda v: Budget(latency=0.5, latency_batch=v),
    "Slim: latency_batch": lambda v: Slim(None, latency_batch=v),
    "Shrink: every_n_epochs": lambda v: Shrink(every_n_epochs=v),
    "Shrink: every_n_steps": lambda v: Shrink(every_n_steps=v),
    "Shrink: round_to": lambda v: Shrink(round_to=v),
    "GroupLasso: target_groups": lambda v: GroupLasso("filter", 0.1, target_groups=v),
    "GroupLasso: factors": lambda v: GroupLasso("filter", 0.1, "gating", factors=v),
    "target_groups": lambda v: solver(ProximalSolver, target_groups=v),
    "freeze_at": lambda v: solver(ProximalSolver, freeze_at=v),
    "factors": lambda v: solver(GatedSolver, factors=v),
    "steps": lambda v: RunLength(steps=v),
    "steps_per_epoch": lambda v: RunLength(steps_per_epoch=v),
    "Random: seed": lambda v: Random(None if v == -1 else v),  # which may be negative
}


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_is_refused(name):
    for wrong in ("0.5", True, nan, inf, [0.5], torch.tensor(0.5)):
        with pytest.raises(ValueError, match=rf"^{name.strip()}\b.* must .*got"):
            NUMBERS[name](wrong)


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_no_whole_number_is_refused(name):
    for wrong in ("3", True, nan, 1.5, -1, [3]):
        with pytest.raises(ValueError, match=rf"^{name}\b.*(must|expected)"):
            WHOLE[name](wrong)


@pytest.mark.parametrize(
    ("limits", "good", "bad", "words"),
    [
        ({}, (-3, 0, 2.5), (inf, -inf, None), "a finite number, got"),
        ({"low": 0}, (0, 7.5), (-1e-9, inf), "a finite number >= 0, got"),
        ({"above": 0}, (1e-9, 7), (0, -1, inf), "a finite number above 0, got"),
        ({"low": 0, "below": 1}, (0, 0.99), (-0.1, 1), r"a number in \[0, 1\), got"),
        ({"above": 0, "high": 1, "what": "a share"}, (0.1, 1), (0, 1.1), r"a share in \(0, 1\], got"),
        ({"above": 1, "infinite": True}, (1.5, inf), (1, -inf, nan), "a number above 1, got"),
    ],
)
def test_ranges(limits, good, bad, words):
    for value in good:
        check_number(value, "it", **limits)
    for value in bad:
        with pytest.raises(ValueError, match=f"^it must be {words}"):
            check_number(value, "it", **limits)


def test_whole_numbers():
    check_whole(2, "it", 2)
    with pytest.raises(ValueError, match=r"^it must be a whole number of channels >= 2, got 1$"):
        check_whole(1, "it", 2, "channels")


@pytest.mark.parametrize("state", [{}, None, {"mean": 1}])
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("StepHook", lambda: StepHook(groups())),
        ("ProximalSolver", lambda: solver(ProximalSolver)),
        ("Mask", lambda: Mask(groups(), torch.ones(2, dtype=torch.bool))),
        ("TaylorGate", TaylorGate),
        ("Sum", lambda: Magnitude() + TaylorGate()),
    ],
)
def test_what_is_no_state_is_refused(name, build, state):
    with pytest.raises(ValueError, match=f"^{name}: the state has .*, expected "):
        build().load_state_dict(state)

"""From a stated size to a strength: limits, the size of what is left, what goes together, and the controller."""

from ssl_prune.budget.atoms import Atoms, atoms, units_of
from ssl_prune.budget.change import BudgetChange
from ssl_prune.budget.controller import Choice, Controller
from ssl_prune.budget.limits import Limits
from ssl_prune.budget.looks import at_zero, time_left
from ssl_prune.budget.measured import fit, plan
from ssl_prune.budget.one_shot import apply_budget
from ssl_prune.budget.sizes import SizeModel
from ssl_prune.budget.steering import Steering, steer
from ssl_prune.budget.times import TimeModel
from ssl_prune.budget.window import Window

__all__ = [
    "Atoms",
    "BudgetChange",
    "Choice",
    "Controller",
    "Limits",
    "SizeModel",
    "Steering",
    "TimeModel",
    "Window",
    "apply_budget",
    "at_zero",
    "atoms",
    "fit",
    "plan",
    "steer",
    "time_left",
    "units_of",
]

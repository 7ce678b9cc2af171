"""From a stated size to a strength: limits, the size of what is left, what goes together, and the controller."""

from ssl_prune.budget.controller import Choice, Controller
from ssl_prune.budget.indivisible import Atoms, atoms, units_of
from ssl_prune.budget.limits import Limits
from ssl_prune.budget.measure import at_zero, time_left
from ssl_prune.budget.measured_choice import fit, plan
from ssl_prune.budget.problem import Steering, steer
from ssl_prune.budget.window import Window
from ssl_prune.sizes.latency_model import TimeModel
from ssl_prune.sizes.model import SizeModel

__all__ = [
    "Atoms",
    "Choice",
    "Controller",
    "Limits",
    "SizeModel",
    "Steering",
    "TimeModel",
    "Window",
    "at_zero",
    "atoms",
    "fit",
    "plan",
    "steer",
    "time_left",
    "units_of",
]

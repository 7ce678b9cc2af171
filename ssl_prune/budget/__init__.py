"""From a stated size to a strength: limits, the size of what is left, what goes together, and the controller."""

from ssl_prune.budget.controller import Choice, Controller
from ssl_prune.budget.indivisible import IndivisibleGroups, indivisible, units_of
from ssl_prune.budget.limits import Limits
from ssl_prune.budget.measure import at_zero, latency_left
from ssl_prune.budget.measured_choice import fit, plan
from ssl_prune.budget.problem import BudgetProblem, make_problem
from ssl_prune.sizes.latency_model import LatencyModel
from ssl_prune.sizes.model import SizeModel

__all__ = [
    "BudgetProblem",
    "Choice",
    "Controller",
    "IndivisibleGroups",
    "LatencyModel",
    "Limits",
    "SizeModel",
    "at_zero",
    "fit",
    "indivisible",
    "latency_left",
    "make_problem",
    "plan",
    "units_of",
]

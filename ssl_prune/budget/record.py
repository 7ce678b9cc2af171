"""What a budget decided, as plain data for a file."""

from __future__ import annotations

from math import isfinite
from typing import Any

from ssl_prune.budget.problem import BudgetProblem
from ssl_prune.budget.solver import BudgetSolver

__all__ = ["RECORDED", "budget_record"]

RECORDED = ("limits", "left", "projected", "groups", "channels", "history")


def budget_record(problem: BudgetProblem, solver: BudgetSolver) -> dict[str, Any]:
    """The limits, what is left, and of each group its name, its last key, and the step at which it went.

    Args:
        problem: the network's groups and what each costs.
        solver: what took the decisions.

    Returns:
        Numbers, texts, lists and dicts only.
    """
    dead, names = solver.dead, problem.parts.groups
    return {
        "limits": problem.controller.limits,
        "left": problem.left(dead),
        "projected": solver.projected,
        "groups": [int((~dead).sum()), len(dead)],
        "channels": [
            {"name": names.describe(g), "key": key if isfinite(key) else None, "gone": step if step >= 0 else None}
            for g, (key, step) in enumerate(zip(solver.keys.tolist(), solver.gone.tolist(), strict=True))
        ],
        "history": [dict(zip(("step", "due", "left", "strength"), entry, strict=True)) for entry in solver.history],
    }

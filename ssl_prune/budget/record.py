"""What a budget decided, as plain data for a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import isfinite
from typing import Any

from torch import nn

from ssl_prune.budget.problem import BudgetProblem
from ssl_prune.budget.reached import reached
from ssl_prune.budget.solver import BudgetSolver
from ssl_prune.groups.gathered import held_by
from ssl_prune.slimming.outcome.changes import BudgetChange

__all__ = ["RECORDED", "budget_record", "outcome"]

RECORDED = ("limits", "left", "reached", "missed", "projected", "groups", "channels", "history")


def outcome(
    problem: BudgetProblem, solver: BudgetSolver, left: Mapping[str, float], why: str, network: nn.Module
) -> BudgetChange:
    """The size that a run has reached, beside the one that was stated.

    Args:
        problem: the network's groups and what each costs.
        solver: what took the decisions.
        left: kind -> the share of the dense network that is left; of other kinds what is left is what was planned.
        why: the reason, if that is too much although all has gone that was to go.
        network: with whole parameters, where those of the solver are shards.
    """
    names = problem.parts.groups
    layers = Counter(names.layers[i] for i in names.layer.cpu()[solver.dead].tolist())
    planned = BudgetChange(dict(problem.controller.limits), problem.left(solver.dead), dict(layers), None)
    if solver.frozen and "latency" in planned.limits:  # no estimate decides that
        over, limit = solver.over, planned.limits["latency"]
        planned.left["latency"] = min(planned.left["latency"], limit) if over is None else limit + over
    groups = held_by(solver.groups, network)
    back = int((groups.alive().cpu() & solver.dead).sum()) if len(solver.dead) == groups.num_groups else 0
    if not solver.frozen:
        why = f"the run stopped at step {solver.step_count}, before its window ends at step {solver.last}"
    elif back:
        why = f"{back} of {int(solver.dead.sum())} channels that had gone are not zero: other weights took their place"
    return reached(planned, left, solver.unmet or why or "too little was set to zero")


def budget_record(problem: BudgetProblem, solver: BudgetSolver, now: BudgetChange | None = None) -> dict[str, Any]:
    """The limits, what is left, and of each group its name, its last key, and the step at which it went.

    Args:
        problem: the network's groups and what each costs.
        solver: what took the decisions.
        now: the size that was reached, once it is known.

    Returns:
        Numbers, texts, lists and dicts only.
    """
    dead, names = solver.dead, problem.parts.groups
    return {
        "limits": problem.controller.limits,
        "left": problem.left(dead),
        "reached": None if now is None else now.left,
        "missed": None if now is None else now.missed,
        "projected": solver.projected,
        "groups": [int((~dead).sum()), len(dead)],
        "channels": [
            {"name": names.describe(g), "key": key if isfinite(key) else None, "gone": step if step >= 0 else None}
            for g, (key, step) in enumerate(zip(solver.keys.tolist(), solver.gone.tolist(), strict=True))
        ],
        "history": [dict(zip(("step", "due", "left", "strength"), entry, strict=True)) for entry in solver.history],
    }

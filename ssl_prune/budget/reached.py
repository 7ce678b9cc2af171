"""The size that a network has in the end, beside the one that was stated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ssl_prune.budget.limits import Limits
from ssl_prune.slimming.outcome.changes import BudgetChange
from ssl_prune.slimming.outcome.slim_report import SlimReport

__all__ = ["miss", "reached", "shares_of", "why_more"]

# Of a limit: how far above it a size counts as met. What is counted is exact; what is timed is not.
EXACT, TIMED = 1e-9, 0.01
NAMED = 3  # reasons that a message gives


def reached(change: BudgetChange, left: Mapping[str, float], why: str) -> BudgetChange:
    """The record with the size that was reached.

    Args:
        change: the record as it was planned.
        left: kind -> the share that is left; kinds that it does not have stay as they were planned.
        why: the reason, if that is too much.

    Example:
        >>> planned = BudgetChange({"macs": 0.5}, {"macs": 0.49}, {}, 0.1)
        >>> reached(planned, {"macs": 0.6, "params": 0.7}, "the proof kept more")
        BudgetChange(limits={'macs': 0.5}, left={'macs': 0.6}, groups={}, max_difference=0.1, missed='the proof kept more')
    """
    now = {kind: left.get(kind, share) for kind, share in change.left.items()}
    over = any(now[kind] > limit * (1 + _slack(kind)) for kind, limit in change.limits.items())
    return replace(change, left=now, missed=why if over else "")


def shares_of(report: SlimReport) -> dict[str, float]:
    """kind -> the share that a cut has left.

    Args:
        report: of the cut.
    """
    pairs = {"macs": report.macs, "params": report.params}
    return {kind: after / before for kind, (before, after) in pairs.items() if before}


def why_more(report: SlimReport) -> str:
    """Why a cut left more than what was set to zero.

    Args:
        report: of the cut.
    """
    if report.refused:
        return f"a larger cut did not pass the proof ({report.refused})"
    kept = sorted(report.kept, key=lambda each: each.count, reverse=True)[:NAMED]
    reasons = [f"{each.count} zero channels of {each.layer} are kept: {each.reason}" for each in kept]
    return "; ".join(reasons) or "too little was set to zero"


def miss(change: BudgetChange, stated: Limits) -> str:
    """What to say of a size that is missed; nothing of one that is met.

    Args:
        change: what was stated and what was reached.
        stated: the limits in the units in which they were stated.
    """
    if not change.missed:
        return ""
    left = {kind: change.left[kind] for kind in change.limits}
    return (
        f"Budget: the stated size is missed: due {stated.text(change.limits, change.limits)}, reached "
        f"{stated.text(left, change.limits)}: {change.missed}"
    )


def _slack(kind: str) -> float:
    return TIMED if kind == "latency" else EXACT

"""What a cut leaves: the network, the plan that made it, and the report."""

from dataclasses import dataclass

from torch import nn

from ssl_prune.slimming.outcome.slim_report import SlimReport
from ssl_prune.slimming.plan.plan import SlimPlan

__all__ = ["SlimResult"]


@dataclass(frozen=True)
class SlimResult:
    """A slim network with the plan that made it and the report of what happened."""

    model: nn.Module
    plan: SlimPlan
    report: SlimReport
